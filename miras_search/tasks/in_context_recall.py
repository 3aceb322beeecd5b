"""In-context recall: a key that comes again has the value it had before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from miras_search.registry import register
from miras_search.tasks.base import Levels
from miras_search.tasks.odds import value_of_any_key
from miras_search.tasks.synthetic import Recall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class InContextRecall(Recall):
    """Say the value of each key that was seen before in the example, as in MAD.

    An example is length / 2 pairs of a key, 0 .. vocab/2 - 1, and a value, vocab/2 .. vocab - 1.
    Keys are drawn with replacement; a new key has any value, which other keys may have, too. The
    last key is one of those seen, each equally likely. With length 16 and vocab 8:

        token    1 7 0 5 2 7 2 7 3 6 1 7 3 6 1 7
        target   . . . . . . 7 . . . 7 . 6 . 7 .

    With `train_on: all` training asks for every next token, as in the paper's library.
    """

    kind: ClassVar[str] = "in_context_recall"
    equation: ClassVar[str] = "k1 v1 ... ki vi ... ki -> vi"
    source: ClassVar[str] = "MAD 2403.17844 and its in-context-recall generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 16,
        "vocab": 8,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [8, 32],
    }

    length: Annotated[int, Field(ge=4, multiple_of=2)] = 128
    vocab: Annotated[int, Field(ge=4)] = 16
    """Keys and values together, half each."""

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def levels(self, split: str) -> Levels:
        """Chance is any value. The plateau is the value that most keys seen have; it is derived."""
        keys, values = self.vocab // 2, self.vocab - self.vocab // 2
        plateau = value_of_any_key(self.length_of(split) // 2, keys, values)
        return Levels(chance=1 / values, plateau=plateau, ceiling=1.0)

    def sequences(self, split: str, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        from miras_search.data.pairs import single

        keys, values = self.vocab // 2, self.vocab - self.vocab // 2
        return single(count, self.length_of(split) // 2, keys, values, 0.0, 0, random)

"""Compression: all that was read, from the state at the last token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from miras_search.registry import register
from miras_search.tasks.base import Levels, Readout
from miras_search.tasks.odds import most_frequent
from miras_search.tasks.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class Compression(Synthetic):
    """Say every token again, all from the hidden state of the last one, as in MAD.

    Tokens are any of 0 .. vocab - 2; the last, vocab - 1, says that the example is over. A decoder
    is told a position and the state at the last token, and says what was at that position. With
    length 8 and vocab 6:

        token    3 0 2 4 4 1 1 5
        target   3 0 2 4 4 1 1 .

    The paper's library scores the last token as well, which is always the same.
    """

    kind: ClassVar[str] = "compression"
    equation: ClassVar[str] = "x1 .. xn ! -> x1 .. xn"
    source: ClassVar[str] = "MAD 2403.17844 and its compression generator"
    readout: ClassVar[Readout] = "last"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 8,
        "vocab": 6,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [6],
    }

    length: Annotated[int, Field(ge=2)] = 32
    vocab: Annotated[int, Field(ge=3)] = 16
    """Tokens to say again, and the one at the end."""

    def problem(self, length: int) -> str | None:
        return "expected at least 2 tokens" if length < 2 else None

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def levels(self, split: str) -> Levels:
        """Chance is any token; the plateau, derived, the most frequent one of the example."""
        kinds = self.vocab - 1
        plateau = most_frequent(self.length_of(split) - 1, kinds)
        return Levels(chance=1 / kinds, plateau=plateau, ceiling=1.0)

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        import torch

        from miras_search.tasks.base import IGNORE

        kinds = self.vocab - 1
        tokens = torch.randint(kinds, (count, self.length_of(split)), generator=random)
        targets = tokens.clone()
        tokens[:, -1], targets[:, -1] = kinds, IGNORE
        return tokens, targets

"""Selective copying: say what was read, without the blanks between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels
from miras_search.tasks.odds import most_frequent
from miras_search.tasks.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class SelectiveCopying(Synthetic):
    """Say `copy_tokens` tokens again, in order, after a sign, as in MAD.

    The tokens, 0 .. vocab - 3, stand among blanks, vocab - 2; each blank goes before any of them,
    with the same odds. Then comes the sign, vocab - 1, and blanks, at which the tokens are asked
    for. With length 16, copy_tokens 4 and vocab 8:

        token    3 6 4 6 6 6 6 6 6 2 1 7 6 6 6 6
        target   . . . . . . . . . . . . 3 4 2 1
    """

    kind: ClassVar[str] = "selective_copying"
    equation: ClassVar[str] = "x1 _ x2 _ _ x3 ! _ _ _ -> x1 x2 x3"
    source: ClassVar[str] = "MAD 2403.17844 and its selective-copying generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 16,
        "copy_tokens": 4,
        "vocab": 8,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [10, 32],
    }

    length: Count = 256
    copy_tokens: Count = 16
    """Tokens to say again."""
    vocab: Annotated[int, Field(ge=4)] = 16
    """Tokens to say again, the blank and the sign."""

    def problem(self, length: int) -> str | None:
        least = 2 * self.copy_tokens + 1
        if length < least:
            return f"expected at least 2 * copy_tokens + 1 = {least} tokens"
        return None

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def levels(self, split: str) -> Levels:
        """Chance is any token; the plateau, derived, the most frequent of those to be said."""
        self.check_split(split)
        kinds = self.vocab - 2
        plateau = most_frequent(self.copy_tokens, kinds)
        return Levels(chance=1 / kinds, plateau=plateau, ceiling=1.0)

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        from miras_search.data.copying import among_blanks

        length = self.length_of(split)
        return among_blanks(count, length, self.copy_tokens, self.vocab - 2, random)

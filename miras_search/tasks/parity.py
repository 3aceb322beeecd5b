"""Parity: whether the ones so far are odd in number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels
from miras_search.tasks.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class Parity(Synthetic):
    """Say after each bit whether the ones so far are odd in number.

    With length 12:

        token    0 1 0 0 1 1 0 1 0 0 1 0
        target   0 1 1 1 0 1 1 0 0 0 1 1

    At finite precision a linear memory needs a transition with a negative eigenvalue to do it at
    all lengths: a one has to turn the state around.
    """

    kind: ClassVar[str] = "parity"
    equation: ClassVar[str] = "y_t = x_1 + .. + x_t mod 2"
    source: ClassVar[str] = "Grazzi et al. 2411.12537, with a target at every position"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 12,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [16, 64],
    }

    length: Count = 40

    @property
    def vocabulary(self) -> int:
        return 2

    def levels(self, split: str) -> Levels:
        """Chance is either bit; the plateau is derived: chance, but for the first position, where
        the parity is the bit itself."""
        length = self.length_of(split)
        return Levels(chance=1 / 2, plateau=(1 + (length - 1) / 2) / length, ceiling=1.0)

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        import torch

        tokens = torch.randint(2, (count, self.length_of(split)), generator=random)
        return tokens, tokens.cumsum(1) % 2

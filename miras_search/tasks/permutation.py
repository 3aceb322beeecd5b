"""Permutation: the word problem of a symmetric group."""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels
from miras_search.tasks.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class Permutation(Synthetic):
    """Say after each permutation of `degree` things what all so far do, the first one first.

    Token i is the permutation that comes i-th in alphabetical order: of degree 3, 0 .. 5 are
    012, 021, 102, 120, 201 and 210. The permutation p moves what is at place p[j] to place j, so
    that the product of x_1 .. x_t maps j to x_1[x_2[.. x_t[j]]]. With degree 3 and length 8:

        token    4 1 4 4 0 5 4 4
        target   4 5 1 2 2 4 3 0

    Of degree 5 (A5 is simple), it is complete for NC1: no fixed number of layers of attention or
    of diagonal linear memories does it at all lengths, unless TC0 = NC1.
    """

    kind: ClassVar[str] = "permutation"
    equation: ClassVar[str] = "y_t = x_1 x_2 .. x_t in S_n"
    source: ClassVar[str] = "Liu et al. 2210.10749; Merrill et al. 2404.08819"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 8,
        "degree": 3,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [6, 24],
    }

    length: Count = 32
    degree: Annotated[int, Field(ge=2, le=6)] = 5
    """Things that are permuted; there are degree! tokens."""

    @property
    def vocabulary(self) -> int:
        return factorial(self.degree)

    def levels(self, split: str) -> Levels:
        """Chance is any permutation; the plateau is derived: chance, but for the first position,
        where the product is the token itself."""
        length, chance = self.length_of(split), 1 / self.vocabulary
        return Levels(chance=chance, plateau=(1 + (length - 1) * chance) / length, ceiling=1.0)

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        import torch

        from miras_search.data.permutations import products

        shape = (count, self.length_of(split))
        tokens = torch.randint(self.vocabulary, shape, generator=random)
        return tokens, products(tokens, self.degree)

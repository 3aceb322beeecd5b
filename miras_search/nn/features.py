"""Polynomial features of keys and queries: more room in a memory of the same head width."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def feature_width(width: int, degree: int) -> int:
    """How many monomials of at most `degree` there are in `width` variables; `width` for 1."""
    return width if degree == 1 else math.comb(width + degree, degree)


class PolynomialFeatures(nn.Module):
    """Every monomial of at most `degree`, those of degree i times a coefficient of each head.

    The coefficients are learned and start at 1/i! (Atlas 2505.23735, eq 5).
    """

    monomials: Tensor
    """The factors of each, `[monomials, degree]`."""
    degrees: Tensor
    """`[monomials]`"""

    def __init__(self, heads: int, width: int, degree: int) -> None:
        super().__init__()
        self.degree = degree
        start = torch.tensor([1 / math.factorial(i) for i in range(degree + 1)])
        self.coefficients = nn.Parameter(start.expand(heads, -1).clone())
        self.width = width
        self.tabulate()

    def tabulate(self) -> None:
        """Make the tables of monomials, which no checkpoint holds."""
        device = self.coefficients.device
        # Each monomial is a product of `degree` factors; the variable after the last one is 1.
        chosen = list(combinations_with_replacement(range(self.width + 1), self.degree))
        self.register_buffer("monomials", torch.tensor(chosen, device=device), persistent=False)
        degrees = [sum(i < self.width for i in factors) for factors in chosen]
        self.register_buffer("degrees", torch.tensor(degrees, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, H, K]` to `[B, T, H, feature_width(K, degree)]`."""
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        return x[..., self.monomials].prod(-1) * self.coefficients.to(x.dtype)[:, self.degrees]

"""Robust regression: the worst squared error over shifts of the value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from miras_search.bias.base import SMOOTHING, Bias
from miras_search.component import Coefficient, Positive
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class ValueShift(Bias):
    """The maximum of 1/2 ||M(k) - v - d||^2 over all shifts d no longer than `delta`.

    The length is sqrt(||r||^2 + 1e-6), so that the gradient at r = 0 is 0.
    """

    kind: ClassVar[str] = "value_shift"
    equation: ClassVar[str] = "l = 1/2 ||r||^2 + d ||r|| + d^2 / 2,  r = M(k) - v"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 17"

    delta: Positive = "data"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (
            Coefficient(
                name="delta",
                source=self.delta,
                low=0,
                high=math.inf,
                initial=0.1,
                acts_on="output",
            ),
        )

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        delta, square = gates["delta"], (pred - target).square().sum(-1, keepdim=True)
        shifted = square / 2 + delta * (square + SMOOTHING).sqrt() + delta.square() / 2
        return shifted.squeeze(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r = pred - target
        square = r.square().sum(-1, keepdim=True)
        return r + gates["delta"] * r * (square + SMOOTHING).rsqrt()

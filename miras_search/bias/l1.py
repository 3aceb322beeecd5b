"""The absolute error: every residual pulls alike, so that outliers do not count for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.bias.base import SMOOTHING, Bias
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class L1(Bias):
    """The sum of |r|, |r| being sqrt(r^2 + 1e-6): what is written is the (smooth) sign of r."""

    kind: ClassVar[str] = "l1"
    equation: ClassVar[str] = "l = ||M(k) - v||_1"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 12 and remark 5"

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return ((pred - target).square() + SMOOTHING).sqrt().sum(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r = pred - target
        return r * (r.square() + SMOOTHING).rsqrt()

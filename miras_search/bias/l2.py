"""The squared loss of the delta rule, TTT and Titans."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.bias.base import Bias
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class L2(Bias):
    """Half the squared error, so that the gradient is the residual itself."""

    kind: ClassVar[str] = "l2"
    equation: ClassVar[str] = "l = 1/2 ||M(k) - v||_2^2"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 9; Titans 2501.00663, appendix C"
    quadratic: ClassVar[bool] = True

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return (pred - target).square().sum(-1) / 2

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return pred - target

"""The Hebbian bias of linear attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.bias.base import Bias
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Dot(Bias):
    """Maximise agreement: each write adds the value, whatever is already there."""

    kind: ClassVar[str] = "dot"
    equation: ClassVar[str] = "l = -<M(k), v>"
    source: ClassVar[str] = "MIRAS 2504.13173, section 3; Atlas 2505.23735, eq 19"
    uses_prediction: ClassVar[bool] = False

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return -(pred * target).sum(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return -target


DOT = Dot()  # made once: to make a component breaks a compiled graph

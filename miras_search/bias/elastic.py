"""The elastic net of squared and absolute error: small residuals matter too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.bias.base import Bias
from miras_search.bias.l1 import L1
from miras_search.bias.l2 import L2
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SQUARE, ABSOLUTE = L2(), L1()  # made once: to make a component breaks a compiled graph


@register
class Elastic(Bias):
    """l2 and l1 in the shares 1 - `mix` and `mix`."""

    kind: ClassVar[str] = "elastic"
    equation: ClassVar[str] = "l = (1 - m)/2 ||M(k) - v||_2^2 + m ||M(k) - v||_1"
    source: ClassVar[str] = "Zou and Hastie 2005; not in MIRAS"

    mix: Annotated[float, Field(ge=0, le=1)] = 0.5

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        square, absolute = (bias.loss(pred, target, gates) for bias in (SQUARE, ABSOLUTE))
        return (1 - self.mix) * square + self.mix * absolute

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        square, absolute = (bias.gradient(pred, target, gates) for bias in (SQUARE, ABSOLUTE))
        return (1 - self.mix) * square + self.mix * absolute

"""The p-norm bias of Moneta: p < 2 forgives outliers, p > 2 chases them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.bias.base import SMOOTHING, Bias
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Lp(Bias):
    """The p-th power of the p-norm over p, so that p = 2 is l2.

    Below p = 2, |r| is sqrt(r^2 + 1e-6): p = 1 writes the (smooth) sign of the residual.
    """

    kind: ClassVar[str] = "lp"
    equation: ClassVar[str] = "l = 1/p ||M(k) - v||_p^p"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 10-12"

    p: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0

    @property
    def steep(self) -> str | None:
        return f"p = {self.p:g} pulls harder than the residual is long" if self.p > 2 else None

    @property
    def formula(self) -> str:
        told = self.equation.replace("1/p", f"1/{self.p:g}").replace(
            "_p^p", f"_{self.p:g}^{self.p:g}"
        )
        return told + (", |x| being sqrt(x^2 + 1e-6)" if self.p < 2 else "")

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r = pred - target
        power = (r.square() + SMOOTHING).pow(self.p / 2) if self.p < 2 else r.abs().pow(self.p)
        return power.sum(-1) / self.p

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r = pred - target
        if self.p < 2:
            return r * (r.square() + SMOOTHING).pow(self.p / 2 - 1)
        # At r = 0 the derivative of |r|^(p - 2) is infinite for 2 < p < 3, its product with r 0.
        zero = r == 0
        return (r * r.abs().masked_fill(zero, 1).pow(self.p - 2)).masked_fill(zero, 0)

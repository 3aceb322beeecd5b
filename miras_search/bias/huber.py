"""The Huber bias of Yaad: quadratic for small residuals, at most linear for large ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from miras_search.bias.base import SMOOTHING, Bias
from miras_search.component import Coefficient, Per, Positive
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Huber(Bias):
    """Three ways to bound the pull of a residual r larger than the threshold `delta`.

    `coordinate` clips every channel, `norm` clips the length of r and keeps its direction,
    `mixture` (Yaad) writes delta times the sign of r once ||r|| exceeds delta; its gradient
    jumps there, as printed.
    """

    kind: ClassVar[str] = "huber"
    equation: ClassVar[str] = (
        "grad l = r if ||r|| <= d, else d sign(r) (mixture) or d r / ||r|| (norm); "
        "clip(r, -d, d) (coordinate);  r = M(k) - v"
    )
    source: ClassVar[str] = "MIRAS 2504.13173, eq 13-16 and 26"

    form: Literal["coordinate", "norm", "mixture"] = "mixture"
    delta: Positive = "data"
    per: Per = "head"

    @model_validator(mode="after")
    def _one_length_one_threshold(self) -> Huber:
        if self.form == "norm" and self.per == "channel":
            raise ValueError("form norm bounds one length, so its threshold is per head")
        return self

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (
            Coefficient(
                name="delta",
                source=self.delta,
                low=0,
                high=math.inf,
                initial=1.0,
                per=self.per,
                acts_on="output",
            ),
        )

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r, delta = pred - target, gates["delta"]
        if self.form == "norm":
            small = r.square().sum(-1) / 2
            outside = (_excess(r, delta).sqrt() - 0.5) * delta.square()
            inside = r.square().sum(-1, keepdim=True) <= delta.square()
            return small.where(inside.squeeze(-1), outside.squeeze(-1))
        if self.form == "coordinate":
            inside, size = r.abs() <= delta, r.abs()
        else:
            inside = r.square().sum(-1, keepdim=True) <= delta.square()
            size = (r.square() + SMOOTHING).sqrt()
        delta = _outside(delta, inside)
        return (r.square() / 2).where(inside, delta * (size - delta / 2)).sum(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r, delta = pred - target, gates["delta"]
        if self.form == "norm":
            return r * _excess(r, delta).rsqrt()
        if self.form == "coordinate":
            return r.minimum(delta).maximum(-delta)
        inside = r.square().sum(-1, keepdim=True) <= delta.square()
        outside = _outside(delta, inside) * r * (r.square() + SMOOTHING).rsqrt()
        return r.where(inside, outside)


def _outside(delta: Tensor, inside: Tensor) -> Tensor:
    """The threshold where it is exceeded, else 1: an infinite one would turn the derivatives of
    the branch that is not taken into NaN.
    """
    return delta.where(~inside, 1.0)


def _excess(r: Tensor, delta: Tensor) -> Tensor:
    """The squared length of r in units of delta, at least 1: `[..., 1]`, smooth at r = 0."""
    return (r / delta).square().sum(-1, keepdim=True).clamp(min=1)

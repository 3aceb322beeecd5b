"""The Huber bias of Yaad: quadratic for small residuals, at most linear for large ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.bias.base import SMOOTHING, Bias
from miras_search.component import Coefficient, Per, Source
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


Threshold = Source | Annotated[float, Field(gt=0)]
"""As `Positive`, or infinite."""


@register
class Huber(Bias):
    """Three ways to bound the pull of a residual r larger than the threshold `delta`.

    `coordinate` clips every channel, `norm` clips the length of r and keeps its direction,
    `mixture` (Yaad) writes delta times the sign of r once ||r|| exceeds delta, the sign being
    r / sqrt(r^2 + 1e-6); its gradient jumps there, as printed, and so does its value,
    which may be negative: a channel with little error counts as if it were linear too.
    """

    kind: ClassVar[str] = "huber"
    equation: ClassVar[str] = (
        "grad l = r if ||r|| <= d, else d r / sqrt(r^2 + 1e-6) (mixture) or d r / ||r|| (norm); "
        "clip(r, -d, d) (coordinate);  r = M(k) - v"
    )
    source: ClassVar[str] = "MIRAS 2504.13173, eq 13-16 and 26"

    form: Literal["coordinate", "norm", "mixture"] = "mixture"
    delta: Threshold = "data"
    per: Per = "head"

    @model_validator(mode="after")
    def _one_length_one_threshold(self) -> Huber:
        if self.form == "norm" and self.per == "channel":
            raise ValueError("form norm bounds one length, so its threshold is per head")
        return self

    @property
    def formula(self) -> str:
        match self.form:
            case "coordinate":
                told = "clip(r, -d, d)"
            case "norm":
                told = "r min(1, d / ||r||)"
            case "mixture":
                told = "r if ||r|| <= d, else d r / sqrt(r^2 + 1e-6) in each channel"
        return f"grad l = {told},  r = M(k) - v"

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
        square = r.square()
        if self.form == "norm":
            square = square.sum(-1, keepdim=True)
        inside = self._inside(r, delta)
        smoothing = SMOOTHING if self.form == "mixture" else 0.0
        size = (_outside(square, inside) + smoothing).sqrt()
        delta = _outside(delta, inside)
        return (square / 2).where(inside, delta * (size - delta / 2)).sum(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        r, delta = pred - target, gates["delta"]
        if self.form == "coordinate":
            return r.where(r.abs() <= delta, delta * r.sign())
        inside = self._inside(r, delta)
        outside = _outside(delta, inside) * r
        if self.form == "norm":
            square = r.square().sum(-1, keepdim=True)
            return r.where(inside, outside * _outside(square, inside).rsqrt())
        return r.where(inside, outside * (r.square() + SMOOTHING).rsqrt())

    def _inside(self, r: Tensor, delta: Tensor) -> Tensor:
        """Where the threshold is not exceeded, by each channel or by the length of r."""
        if self.form == "coordinate":
            return r.abs() <= delta
        return r.square().sum(-1, keepdim=True) <= delta.square()


def _outside(x: Tensor, inside: Tensor) -> Tensor:
    """x where the threshold is exceeded, else 1: the derivatives of the branch that is not taken
    must be finite, for an infinite threshold and for a residual of 0 too.
    """
    return x.where(~inside, 1.0)

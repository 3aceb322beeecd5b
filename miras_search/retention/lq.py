"""The q-norm gate of Moneta: the state is normalised before it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.component import Coefficient, Side, Unit
from miras_search.registry import register
from miras_search.retention.base import Retention, decay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

TINY = 1e-12
"""Norms are at least this, so that a state of zero shows a memory of zero."""
GAIN = 1e12
"""The largest factor between a state and the memory it shows in the printed form."""


@register
class Lq(Retention):
    """A_t = a_t A_{t-1} - e_t grad, seen through a map of its norm over each matrix.

    `exact` is follow-the-regularised-leader with 1/2 ||W||_q^2, 1 < q <= 2: the gradient of the
    conjugate 1/2 ||A||_p^2. `printed` is the map of Moneta, which leaves the powers of the entries
    out; its degree is 3 - q, so that above q = 3 a small state shows a large memory.
    """

    kind: ClassVar[str] = "lq"
    equation: ClassVar[str] = (
        "W = A / ||A||_q^(q-2) (printed) or sign(A) |A|^(p-1) / ||A||_p^(p-2) (exact), "
        "1/p + 1/q = 1"
    )
    source: ClassVar[str] = "MIRAS 2504.13173, eq 24-25 and section 5.2"
    linear: ClassVar[bool] = False
    kept: ClassVar[str] = "a_t A_{t-1}"

    form: Literal["printed", "exact"] = "printed"
    q: Annotated[float, Field(gt=1, le=8)] = 4.0
    retention: Unit = "data"
    per: Side = "head"

    @model_validator(mode="after")
    def _conjugate_exists(self) -> Lq:
        if self.form == "exact" and self.q > 2:
            raise ValueError(f"form exact needs q of at most 2, got {self.q}")
        if self.form == "printed" and 0 < abs(self.q - 3) < 0.1:
            raise ValueError(
                "form printed has no start near q = 3 that numbers can hold: expected 3 itself, "
                f"or at least 0.1 more or less, got {self.q}"
            )
        return self

    @property
    def formula(self) -> str:
        if self.form == "printed":
            return f"W = A / ||A||_{self.q:g}^{self.q - 2:g}"
        p = f"{self.conjugate:g}"
        return f"W = sign(A) |A|^{self.conjugate - 1:g} / ||A||_{p}^{self.conjugate - 2:g}"

    @property
    def fragile(self) -> str | None:
        if self.form == "printed" and self.q > 3:
            return "the less is left of a state, the larger is the memory that lq shows"
        return "lq shows a step larger than it is, the more so the less is left of a state"

    @property
    def conjugate(self) -> float:
        """p with 1/p + 1/q = 1."""
        return self.q / (self.q - 1)

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (decay(self.retention, self.per, initial=0.98),)

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return gates["retention"]

    def expose(self, state: Tensor) -> Tensor:
        if self.form == "exact":
            return _gradient(state, self.conjugate)
        floor = max(TINY, GAIN ** (1 / (2 - self.q))) if self.q > 2 else TINY
        return state * _norm(state, self.q, floor).pow(2 - self.q)

    def start(self, weights: Tensor) -> Tensor:
        if self.form == "exact":
            return _gradient(weights, self.q)
        # At q = 3 the map only sees directions: the start is W_0 over its norm, whatever A_0.
        exponent = 0.0 if self.q == 3 else (self.q - 2) / (3 - self.q)
        return weights * _norm(weights, self.q, TINY).pow(exponent)


def _norm(x: Tensor, p: float, floor: float) -> Tensor:
    """The p-norm of each matrix, at least `floor`: `[..., 1, 1]`."""
    largest = x.abs().amax((-2, -1), keepdim=True).clamp(min=floor)
    total = (x / largest).abs().pow(p).sum((-2, -1), keepdim=True)
    # At least 1 but where x is all below the floor, and there the derivative is not to be infinite.
    return largest * total.clamp(min=1.0).pow(1 / p)


def _gradient(x: Tensor, p: float) -> Tensor:
    """The gradient of 1/2 ||x||_p^2, as large as x: powers are taken of x over its norm."""
    norm = _norm(x, p, TINY)
    share = (x / norm).abs()
    return x.sign() * norm * (share if p >= 2 else share.clamp(min=TINY)).pow(p - 1)

"""The elastic net: entries too small to matter are forgotten for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from miras_search.component import Coefficient, Side, Unit
from miras_search.registry import register
from miras_search.retention.base import KEPT, Retention, penalty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class ElasticNet(Retention):
    """Soft thresholding S_c(x) = sign(x) max(|x| - c, 0), s being the `sparsity`.

    `proximal` is the minimiser of <grad, W> + ||W - W_{t-1}||^2 / (2 e_t) + g_t ||W||^2 / 2 +
    s ||W||_1, where the coefficient `ridge` is g_t: W_t = S_{z s}(a_t W_{t-1} - z grad) with
    a_t = 1 / (1 + e_t g_t), z = a_t e_t. `ftrl` keeps the sum of all writes A and shows W = S_s(A);
    it has no ridge.
    """

    kind: ClassVar[str] = "elastic_net"
    equation: ClassVar[str] = (
        "W = S_{z s}(A), a_t = 1 / (1 + e_t g_t), z = a_t e_t (proximal) or W = S_s(A) (ftrl)"
    )
    source: ClassVar[str] = "MIRAS 2504.13173, eq 22 and 23"
    linear: ClassVar[bool] = False
    kept: ClassVar[str] = KEPT

    form: Literal["proximal", "ftrl"] = "proximal"
    sparsity: Annotated[float, Field(ge=0, le=1)] = 0.01
    ridge: Unit = "data"
    per: Side = "head"

    @property
    def uses_step(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.form == "proximal"

    @property
    def proximal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.form == "proximal" and self.sparsity > 0

    @property
    def formula(self) -> str:
        if self.form == "ftrl":
            return f"W = S_{{{self.sparsity:g}}}(A), a_t = 1"
        return (
            f"W = S_{{{self.sparsity:g} z}}(A), a_t = 1 / (1 + e_t g_t), "
            "z = a_t e_t, and every write is scaled by a_t too"
        )

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (penalty(self.ridge, self.per),) if self.form == "proximal" else ()

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return 1 / (1 + gates["step"] * gates["ridge"]) if self.form == "proximal" else 1.0

    def write(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return self.retain(gates)

    def settle(self, state: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return _shrunk(state, gates["step"] * self.sparsity) if self.form == "proximal" else state

    def settle_all(
        self, state: Tensor, pushes: Tensor, retain: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        from miras_search.lower.shrink import shrink

        return shrink(state, pushes, retain, gates["step"] * self.sparsity)

    def expose(self, state: Tensor) -> Tensor:
        return _shrunk(state, self.sparsity) if self.form == "ftrl" else state

    def start(self, weights: Tensor) -> Tensor:
        if self.form == "proximal":
            return weights
        return weights + self.sparsity * weights.sign()


def _shrunk(x: Tensor, by: Tensor | float) -> Tensor:
    return x.sign() * (x.abs() - by).clamp(min=0)

"""The gated perceptron of Atlas++: one map decides what passes of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.memory.base import ParametricMemory
from miras_search.memory.mlp import (
    LEAST_KEPT,
    Activation,
    Form,
    activation,
    around,
    form_problem,
    form_steep,
    formed,
    norm_std,
)
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@register
class GatedMlp(ParametricMemory):
    """Two maps in and one out, hidden width `expansion` x key width; `form` as for mlp."""

    kind: ClassVar[str] = "gated_mlp"
    equation: ClassVar[str] = "M(x) = x + LN(W3 (gelu(W1 x) * W2 x))"
    source: ClassVar[str] = "Atlas 2505.23735, eq 43"
    linear: ClassVar[bool] = False

    expansion: Annotated[int, Field(ge=1, le=1024)] = 4
    activation: Activation = "gelu"
    form: Form = "residual_norm"

    @property
    def formula(self) -> str:
        return f"M(x) = {around(self.form, f'W3 ({self.activation}(W1 x) * W2 x)')}"

    @property
    def steep(self) -> str | None:
        return form_steep(self.form)

    @property
    def least_kept(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return LEAST_KEPT if self.form == "residual_norm" else 0.0

    @property
    def learns_from_zero(self) -> bool:
        return False

    def check(self, key_width: int, value_width: int) -> str | None:
        return form_problem(self.kind, self.form, key_width, value_width)

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        hidden = self.expansion * key_width
        return {"W1": (hidden, key_width), "W2": (hidden, key_width), "W3": (value_width, hidden)}

    def initial_std(self, key_width: int, value_width: int) -> dict[str, float]:
        return norm_std(self.form, super().initial_std(key_width, value_width))

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        hidden = activation(self.activation)(maps["W1"](x)) * maps["W2"](x)
        return formed(self.form, x, maps["W3"](hidden))

"""The deep memory of TTT-MLP, Titans and MIRAS."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from miras_search.memory.base import ParametricMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


LEAST_KEPT = 0.5
"""Of matrices whose product is normalised: forgotten faster, the norm divides by nothing."""

Activation = Literal["gelu", "silu", "relu"]
Form = Literal["residual_norm", "residual", "plain"]
"""x + LN(f(x)), x + f(x) or f(x); LN has neither scale nor shift."""


@register
class Mlp(ParametricMemory):
    """A perceptron of `depth` matrices W1..W<depth>, hidden width `expansion` x key width.

    `form` is what becomes of the perceptron f: x + LN(f(x)), x + f(x) (for both, key and value
    widths must be equal) or f(x) alone.
    """

    kind: ClassVar[str] = "mlp"
    equation: ClassVar[str] = "M(x) = x + LN(W2 gelu(W1 x))"
    source: ClassVar[str] = "Titans 2501.00663, section 3.1 and camera-ready; MIRAS 2504.13173"

    depth: Annotated[int, Field(ge=1, le=4)] = 2
    expansion: Annotated[int, Field(ge=1, le=1024)] = 4
    activation: Activation = "gelu"
    form: Form = "residual_norm"

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.depth == 1 and self.form != "residual_norm"

    @property
    def formula(self) -> str:
        inside = "W1 x"
        for i in range(2, self.depth + 1):
            inside = f"W{i} {self.activation}({inside})"
        return f"M(x) = {around(self.form, inside)}"

    @property
    def steep(self) -> str | None:
        return form_steep(self.form) if self.depth > 1 else None

    @property
    def least_kept(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return LEAST_KEPT if self.form == "residual_norm" and self.depth > 1 else 0.0

    @property
    def learns_from_zero(self) -> bool:
        return self.depth == 1

    def check(self, key_width: int, value_width: int) -> str | None:
        return form_problem(self.kind, self.form, key_width, value_width)

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        hidden = [self.expansion * key_width] * (self.depth - 1)
        widths = [key_width, *hidden, value_width]
        return {f"W{i}": (o, n) for i, (n, o) in enumerate(pairwise(widths), start=1)}

    def initial_std(self, key_width: int, value_width: int) -> dict[str, float]:
        return norm_std(self.form, super().initial_std(key_width, value_width))

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        y = maps["W1"](x)
        for i in range(2, self.depth + 1):
            y = maps[f"W{i}"](activation(self.activation)(y))
        return formed(self.form, x, y)


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of a name."""
    from torch.nn import functional

    return getattr(functional, name)


def formed(form: Form, x: Tensor, y: Tensor) -> Tensor:
    """What leaves the memory, of its input x and of what the perceptron says, y."""
    from torch.nn.functional import layer_norm

    if form == "plain":
        return y
    return x + (layer_norm(y, y.shape[-1:]) if form == "residual_norm" else y)


def around(form: Form, inside: str) -> str:
    """The right side of the equation of a memory."""
    match form:
        case "residual_norm":
            return f"x + LN({inside})"
        case "residual":
            return f"x + {inside}"
    return inside


def form_problem(kind: str, form: Form, key_width: int, value_width: int) -> str | None:
    """Why these widths do not suit a form, in one sentence."""
    if form == "plain" or key_width == value_width:
        return None
    return (
        f"{kind} with form {form} adds its input to its output: key width {key_width} and value "
        f"width {value_width} must be equal"
    )


def form_steep(form: Form) -> str | None:
    """Why a product of matrices has no stable step: without a norm its slope has no bound."""
    return None if form == "residual_norm" else "a memory without a norm is steeper as it grows"


def norm_std(form: Form, std: dict[str, float]) -> dict[str, float]:
    """1 under the norm, which undoes any scale of what it is given: there the scale of a matrix
    sets how far a step turns it, and the curvature of the inner loss is about 1 / std^2, so that
    steps below 2 / chunk are stable.
    """
    return dict.fromkeys(std, 1.0) if form == "residual_norm" else std

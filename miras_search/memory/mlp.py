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


@register
class Mlp(ParametricMemory):
    """A perceptron of `depth` matrices W1..W<depth>, hidden width `expansion` x key width.

    `residual_norm` wraps the perceptron f as x + LN(f(x)) (LN without learned scale; key and
    value widths must be equal); `plain` is f(x) alone.
    """

    kind: ClassVar[str] = "mlp"
    equation: ClassVar[str] = "M(x) = x + LN(W2 gelu(W1 x))"
    source: ClassVar[str] = "Titans 2501.00663, section 3.1 and camera-ready; MIRAS 2504.13173"
    linear: ClassVar[bool] = False

    depth: Annotated[int, Field(ge=1, le=4)] = 2
    expansion: Annotated[int, Field(ge=1)] = 4
    activation: Literal["gelu", "silu", "relu"] = "gelu"
    form: Literal["residual_norm", "plain"] = "residual_norm"

    @property
    def learns_from_zero(self) -> bool:
        return self.depth == 1

    def check(self, key_width: int, value_width: int) -> str | None:
        if self.form == "residual_norm" and key_width != value_width:
            return (
                f"mlp with form residual_norm adds its input to its output: key width "
                f"{key_width} and value width {value_width} must be equal"
            )
        return None

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        hidden = [self.expansion * key_width] * (self.depth - 1)
        widths = [key_width, *hidden, value_width]
        return {f"W{i}": (o, n) for i, (n, o) in enumerate(pairwise(widths), start=1)}

    def initial_std(self, key_width: int, value_width: int) -> dict[str, float]:
        """1 under the norm, which undoes any scale of what it is given: there the scale of a
        matrix sets how far a step turns it, and the curvature of the inner loss is about
        1 / std^2, so that steps below 2 / chunk are stable.
        """
        if self.form == "residual_norm":
            return dict.fromkeys(self.matrices(key_width, value_width), 1.0)
        return super().initial_std(key_width, value_width)

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        from torch.nn import functional

        activation = getattr(functional, self.activation)
        y = maps["W1"](x)
        for i in range(2, self.depth + 1):
            y = maps[f"W{i}"](activation(y))
        if self.form == "plain":
            return y
        return x + functional.layer_norm(y, y.shape[-1:])

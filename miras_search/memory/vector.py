"""One number for each channel: the memory of a recurrent network with a diagonal state."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.memory.base import ParametricMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@register
class Vector(ParametricMemory):
    """A diagonal matrix: M(x) = w * x, with w kept as a matrix of one column."""

    kind: ClassVar[str] = "vector"
    equation: ClassVar[str] = "M(x) = w * x"
    source: ClassVar[str] = "MIRAS 2504.13173, section 3"
    linear: ClassVar[bool] = True
    rows_of_one: ClassVar[bool] = True

    @property
    def learns_from_zero(self) -> bool:
        return True

    def check(self, key_width: int, value_width: int) -> str | None:
        if key_width == value_width:
            return None
        return f"vector scales channels: key width {key_width} and value width {value_width} differ"

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        return {"w": (value_width, 1)}

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        return maps["w"](x.new_ones(*x.shape[:-1], 1)) * x

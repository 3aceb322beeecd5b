"""The linear memory of linear attention, the delta rule and most recurrent models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.memory.base import ParametricMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@register
class Matrix(ParametricMemory):
    """One matrix: M(x) = W x."""

    kind: ClassVar[str] = "matrix"
    equation: ClassVar[str] = "M(x) = W x"
    source: ClassVar[str] = "Katharopoulos et al. 2006.16236; MIRAS 2504.13173, section 3"
    linear: ClassVar[bool] = True
    is_map: ClassVar[bool] = True

    @property
    def learns_from_zero(self) -> bool:
        return True

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        return {"W": (value_width, key_width)}

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        return maps["W"](x)

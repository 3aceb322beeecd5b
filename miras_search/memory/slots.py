"""A fixed number of slots, read by attention: softmax attention with a learned, bounded table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.memory.base import ParametricMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


@register
class Slots(ParametricMemory):
    """`slots` keys and values; what is written moves those that the key attends to.

    The table of ABC and GSA, learned by the inner optimiser as every memory here. Started at zero
    its slots would stay alike, so it is not.
    """

    kind: ClassVar[str] = "slots"
    equation: ClassVar[str] = "M(x) = V softmax(K x)"
    source: ClassVar[str] = "ABC 2110.02488; GSA 2409.07146, section 2"
    linear: ClassVar[bool] = False

    slots: Annotated[int, Field(ge=2, le=1024)] = 16

    @property
    def learns_from_zero(self) -> bool:
        return False

    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        return {"K": (self.slots, key_width), "V": (value_width, self.slots)}

    def initial_std(self, key_width: int, value_width: int) -> dict[str, float]:
        """1, so that scores of unit keys differ by about 1 and a read is near one slot's value."""
        return {"K": 1.0, "V": 1.0}

    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        return maps["V"](maps["K"](x).softmax(-1))

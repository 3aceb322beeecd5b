"""What a macro architecture is: the variant of each layer of a model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Component

if TYPE_CHECKING:
    from miras_search.variant import Variant


class Macro(Component):
    """How a model is put together of one memory and of what it shares the work with."""

    axis: ClassVar[str] = "macro"

    @property
    def depth(self) -> int:
        """The fewest layers that show all of it: 1 unless a subclass says so."""
        return 1

    @abstractmethod
    def layers(self, variant: Variant, count: int) -> tuple[Variant, ...]:
        """What each of `count` layers computes, the first first: variants under `lmm`."""

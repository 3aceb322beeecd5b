"""What a macro architecture is: the layers of a model, and the module that each of them is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.component import Component

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant

Persistent = Annotated[int, Field(ge=0, le=256)]
"""Learned tokens that every token comes after."""

Reach = Annotated[int, Field(ge=2, le=2**20)]
"""Tokens that attention sees, the last one among them."""


class Macro(Component):
    """How a model is put together of one memory and of what it shares the work with."""

    axis: ClassVar[str] = "macro"

    @property
    def depth(self) -> int:
        """The fewest layers that show all of it: 1 unless a subclass says so."""
        return 1

    @abstractmethod
    def layers(self, count: int) -> tuple[Layer, ...]:
        """What each of `count` layers is, the first first."""


class Layer(Macro):
    """A macro architecture all of whose layers are alike."""

    @property
    def span(self) -> int:
        """Tokens after which its attention repeats its work; 1 if there is no attention."""
        return 1

    def layers(self, count: int) -> tuple[Layer, ...]:
        return (self,) * count

    @abstractmethod
    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        """The module of one layer.

        It takes `[B, T, D]` and the state that it returned, or None at the start of a sequence, and
        gives `[B, T, D]` and a `nn.state.LayerState`; any split of a sequence into calls gives the
        same.
        """


class Windowed(Layer):
    """A layer with attention over the last tokens, and over tokens that are always there."""

    window: Reach = 64
    """Tokens that attention sees, the last one among them."""
    persistent: Persistent = 4
    """Learned tokens that are always there."""

    @property
    def formula(self) -> str:
        told = f"attention over the last {self.window} tokens, {self.persistent} persistent"
        return f"{self.equation}; {told}"

    @property
    def span(self) -> int:
        return self.window

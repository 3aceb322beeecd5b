"""Memories between layers of sliding-window attention, as in Samba."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

from pydantic import field_validator

from miras_search.macro.base import Layer, Macro, Persistent, Reach, Windowed
from miras_search.macro.lmm import Lmm
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant


class Window(Windowed):
    """A layer of attention over the last `window` tokens and persistent ones, without a memory."""

    kind: ClassVar[str] = "window"
    equation: ClassVar[str] = "x + A(x)"
    source: ClassVar[str] = "Beltagy et al. 2004.05150"

    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        from miras_search.nn.attention import WindowAttention

        return WindowAttention(width, variant.heads, self.window, self.persistent)


@register
class Hybrid(Macro):
    """`pattern` says what each layer is, M the memory and A attention over the last `window`
    tokens, and is repeated over the depth of the model.

    A layer of attention has the heads of the memory's, and rotary positions.
    """

    kind: ClassVar[str] = "hybrid"
    equation: ClassVar[str] = "x + M(x) or x + A(x), in turn"
    source: ClassVar[str] = "Samba 2406.07522; MIRAS 2504.13173, section 5.3 (-H)"

    pattern: str = "MA"
    window: Reach = 64
    """Tokens that attention sees, the last one among them."""
    persistent: Persistent = 0
    """Learned tokens that are always there: attention sees them, and a memory reads them first."""

    @field_validator("pattern")
    @classmethod
    def _names_memory(cls, pattern: str) -> str:
        if "M" not in pattern or not set(pattern) <= {"M", "A"}:
            raise ValueError(f"expected letters M and A, at least one of them M, got '{pattern}'")
        return pattern

    @property
    def formula(self) -> str:
        told = f", {self.persistent} persistent" if self.persistent else ""
        return f"layers {self.pattern} in turn, A over the last {self.window} tokens{told}"

    @property
    def depth(self) -> int:
        return len(self.pattern)

    def layers(self, count: int) -> tuple[Layer, ...]:
        sort = {
            "M": Lmm(persistent=self.persistent),
            "A": Window(window=self.window, persistent=self.persistent),
        }
        return tuple(sort[name] for name in islice(cycle(self.pattern), count))

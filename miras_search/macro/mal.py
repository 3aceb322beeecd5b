"""Memory as a layer: attention over a window reads what the memory puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.macro.base import Windowed
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant


@register
class Mal(Windowed):
    """The memory reads the tokens, and attention over a window reads what it gives; each after
    persistent tokens of its own."""

    kind: ClassVar[str] = "mal"
    equation: ClassVar[str] = "o = attention(M([p | x]))"
    source: ClassVar[str] = "Titans 2501.00663, section 4.3, eq 29-31"

    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        from miras_search.nn.mal import MemoryAsLayer

        return MemoryAsLayer(variant, width, lowering, self.window, self.persistent)

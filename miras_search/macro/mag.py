"""Memory as a gate: attention over a window, multiplied with the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.macro.base import Windowed
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant


@register
class Mag(Windowed):
    """Memory and attention over a window read the same tokens, after the same persistent ones; what
    they give is normalised, goes through SiLU and is multiplied."""

    kind: ClassVar[str] = "mag"
    equation: ClassVar[str] = "o = silu(norm(attention([p | x]))) * silu(norm(M([p | x])))"
    source: ClassVar[str] = "Titans 2501.00663, section 4.2, eq 26-28"

    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        from miras_search.nn.mag import MemoryAsGate

        return MemoryAsGate(variant, width, lowering, self.window, self.persistent)

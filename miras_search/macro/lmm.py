"""The memory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.macro.base import Macro
from miras_search.registry import register

if TYPE_CHECKING:
    from miras_search.variant import Variant


@register
class Lmm(Macro):
    """Every layer is the memory."""

    kind: ClassVar[str] = "lmm"
    equation: ClassVar[str] = "x + M(x) in every layer"
    source: ClassVar[str] = "Titans 2501.00663, section 4.3 (LMM)"

    def layers(self, variant: Variant, count: int) -> tuple[Variant, ...]:
        return (variant,) * count

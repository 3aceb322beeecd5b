"""The memory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.macro.base import Layer, Persistent
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant


@register
class Lmm(Layer):
    """Every layer is the memory."""

    kind: ClassVar[str] = "lmm"
    equation: ClassVar[str] = "x + M(x) in every layer"
    source: ClassVar[str] = "Titans 2501.00663, section 4.3 (LMM)"

    persistent: Persistent = 0
    """Learned tokens that the memory reads before the first one."""

    @property
    def formula(self) -> str:
        after = f", after {self.persistent} learned tokens" if self.persistent else ""
        return f"{self.equation}{after}"

    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        from miras_search.nn.mixer import Mixer

        return Mixer(variant, width, lowering, self.persistent)

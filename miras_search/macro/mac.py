"""Memory as context: attention reads what the memory recalls beside each segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.macro.base import Layer, Persistent
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import nn

    from miras_search.layer import Lowering
    from miras_search.variant import Variant


@register
class Mac(Layer):
    """Of each segment of tokens: recall with the memory as it was before it, attend to persistent
    tokens, to what was recalled and to the segment, write what attention gives, and multiply it
    with what the memory then recalls.
    """

    kind: ClassVar[str] = "mac"
    equation: ClassVar[str] = (
        "h = M(W_Q x) before the segment; y = attention([p | h | x]); write y; o = y * M(y)"
    )
    source: ClassVar[str] = "Titans 2501.00663, section 4.1, eq 21-25"

    segment: Annotated[int, Field(ge=1, le=2**20)] = 64
    """Tokens that attend to each other."""
    persistent: Persistent = 4
    """Learned tokens at the beginning of every segment."""

    @property
    def formula(self) -> str:
        told = f"segments of {self.segment} tokens, {self.persistent} persistent"
        return f"{self.equation}; {told}"

    @property
    def span(self) -> int:
        return self.segment

    def mixer(self, variant: Variant, width: int, lowering: Lowering) -> nn.Module:
        from miras_search.nn.mac import MemoryAsContext

        return MemoryAsContext(variant, width, lowering, self.segment, self.persistent)

"""Memory as a layer: attention over a window reads what a memory puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from miras_search.nn.attention import WindowAttention
from miras_search.nn.mixer import Mixer
from miras_search.nn.state import inside, under

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.layer import Lowering
    from miras_search.nn.state import LayerState
    from miras_search.variant import Variant


class MemoryAsLayer(nn.Module):
    """o = attention(memory(x)), each with persistent tokens."""

    def __init__(
        self, variant: Variant, width: int, lowering: Lowering, window: int, persistent: int
    ) -> None:
        super().__init__()
        self.memory = Mixer(variant, width, lowering, persistent)
        self.attention = WindowAttention(width, variant.heads, window, persistent)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token."""
        m, recalled = self.memory(x, inside("memory", state))
        y, attended = self.attention(m, inside("attention", state))
        return y, under("memory", recalled) | under("attention", attended)

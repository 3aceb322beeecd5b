"""Memory as a gate: attention over a window and a memory read the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from miras_search.nn.attention import WindowAttention
from miras_search.nn.mixer import Mixer
from miras_search.nn.product import Product
from miras_search.nn.state import inside, under

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.layer import Lowering
    from miras_search.nn.state import LayerState
    from miras_search.variant import Variant


class MemoryAsGate(nn.Module):
    """o = attention(x) times memory(x), both after the same persistent tokens."""

    def __init__(
        self, variant: Variant, width: int, lowering: Lowering, window: int, persistent: int
    ) -> None:
        super().__init__()
        self.memory = Mixer(variant, width, lowering, persistent)
        self.attention = WindowAttention(width, variant.heads, window)
        self.product = Product(width)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token."""
        y, attended = self.attention(x, inside("attention", state), self.memory.persistent)
        m, recalled = self.memory(x, inside("memory", state))
        return self.product(y, m), under("attention", attended) | under("memory", recalled)

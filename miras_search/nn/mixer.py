"""The sequence mixer that is a memory alone: projections, memory, output gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from miras_search.lower.contract import TILE
from miras_search.nn.cell import Cell
from miras_search.nn.projection import Projection
from miras_search.nn.state import part

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.layer import Lowering
    from miras_search.nn.state import LayerState
    from miras_search.variant import Variant


ENTRIES = 2**22
"""Of queries, keys and values that are computed together on the CPU: glibc gives back to the system
what has more than 32 MB, and to have it again costs a page fault for each 4 KB."""


class Mixer(nn.Module):
    """q, k, v as `Projection`; then the memory; then a SiLU gate and a linear map (Titans
    2501.00663, section 4.4). The memory reads `persistent` learned tokens before the first one.
    """

    def __init__(
        self, variant: Variant, width: int, lowering: Lowering = "auto", persistent: int = 0
    ) -> None:
        super().__init__()
        # A query, and a key and a value for each write. What is largest comes first, so that a
        # model without room is refused before the machine is short of memory.
        self.parts = 1 + 2 * variant.canonical.algorithm.writes
        self.qkv = Projection(width, variant.heads, self.parts, variant.conv)
        self.cell = Cell(variant, width, lowering)
        self.persistent = nn.Parameter(torch.randn(persistent, width)) if persistent else None
        self.output_gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token."""
        first = 0
        if state is None and self.persistent is not None:
            first = len(self.persistent)
            x = torch.cat([self.persistent.expand(len(x), -1, -1), x], dim=1)
        outputs = []
        for piece in x.split(self._piece(x), dim=1) if x.shape[1] else (x,):
            y, state = self._mix(piece, state)
            outputs.append(y)
        assert state is not None
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return y[:, first:], state

    def _piece(self, x: Tensor) -> int:
        """Tokens to read at a time: any split is the same function."""
        batch, tokens, width = x.shape
        variant = self.cell.variant
        if x.device.type != "cpu" or variant.memory.grows:
            return tokens
        whole = math.lcm(TILE, variant.chunk)
        return max(1, ENTRIES // max(1, batch * self.parts * width) // whole) * whole

    def _mix(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """One piece."""
        qkv, conv = self.qkv(x, part(state, "conv"))
        q, k, v = qkv.split([1, self.parts // 2, self.parts // 2], dim=2)
        y, memory = self.cell(*(z.flatten(1, 2) for z in (q, k, v)), x, part(state, "memory"))
        y = self.output(y.flatten(-2) * functional.silu(self.output_gate(x)))
        return y, {"conv": conv, "memory": memory}

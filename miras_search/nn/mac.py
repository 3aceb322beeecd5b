"""Memory as context: attention sees what a memory recalls beside what is written in the segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from miras_search.lower.call import State
from miras_search.lower.tiles import segments
from miras_search.nn.attention import Heads
from miras_search.nn.cell import Cell
from miras_search.nn.product import Product
from miras_search.nn.projection import Projection
from miras_search.nn.rotary import rotate
from miras_search.nn.state import check, part

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.layer import Lowering
    from miras_search.nn.state import LayerState
    from miras_search.variant import Variant


class MemoryAsContext(nn.Module):
    """Recall, attend, write, multiply, as in Titans 2501.00663, equations 21 to 25.

    Of each segment of tokens x:

        h = M(W_Q x)                          the memory as it was before the segment
        y = attention([persistent | h | x])   of each token: to all h and x up to its own
        M is written with W_K y, W_V y        token by token
        o = y times M(y)                      the memory just after the token's own write

    The paper reads the second time after the whole segment; a token would see later ones.
    Rotary positions count from the first persistent token, anew in each segment.
    """

    def __init__(
        self, variant: Variant, width: int, lowering: Lowering, segment: int, persistent: int
    ) -> None:
        super().__init__()
        heads = variant.heads
        self.cell = Cell(variant, width, lowering)
        self.segment = segment
        self.query = Projection(width, heads, 1, variant.conv)
        self.write = Projection(width, heads, 2 * self.cell.variant.algorithm.writes, variant.conv)
        self.attention = Heads(width, heads)
        self.persistent = nn.Parameter(torch.randn(persistent, width)) if persistent else None
        self.product = Product(width)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token.

        Its parts are the memory and both convolutions, and within a segment the memory before it
        ("start", unless it is the first) and the keys and values of what it recalled and read.
        """
        outputs = []
        read = part(state, "read")
        place = read.position if read else 0
        for start, length, count in segments(place % self.segment, x.shape[1], self.segment):
            for piece in x[:, start : start + length * count].split(length, dim=1):
                y, state = self._read(piece, place, state)
                outputs.append(y)
                place += length
        assert state is not None
        return torch.cat(outputs, dim=1), state

    def _read(self, x: Tensor, place: int, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Tokens of one segment, `place` tokens after the first of all."""
        within = place % self.segment
        memory = part(state, "memory")
        # Absent in the first segment, which the memory meets as it was made.
        start = (state or {}).get("start") if within else memory
        q, query_conv = self.query(x, part(state, "query"))
        h = self.cell.recall(q[:, :, 0], x, start, within).flatten(-2)
        y, recalled, read = self._attend(x, h, state if within else None, within)
        kv, write_conv = self.write(y, part(state, "write"))
        k, v = (z.flatten(1, 2) for z in kv.unflatten(2, (2, -1)).unbind(2))
        m, memory = self.cell(y.unflatten(-1, (self.attention.heads, -1)), k, v, y, memory)
        after = {"memory": memory, "query": query_conv, "write": write_conv}
        end = place + x.shape[1]
        if end % self.segment == 0:
            return self.product(y, m.flatten(-2)), after | {"read": State({}, end)}
        after |= {"recalled": recalled, "read": State(read.tensors, end)}
        if start is not None:
            after["start"] = start
        return self.product(y, m.flatten(-2)), after

    def _attend(
        self, x: Tensor, h: Tensor, state: LayerState | None, within: int
    ) -> tuple[Tensor, State, State]:
        """What attention gives `[B, T, D]`, and keys and values of all that the segment has
        recalled and read so far; `within` tokens of it came before x."""
        heads, first = self.attention, 0 if self.persistent is None else len(self.persistent)
        tokens, seen = x.shape[1], within + x.shape[1]
        found = []
        for name, z, begin in (("recalled", h, first), ("read", x, first + self.segment)):
            k, v = heads.pairs(z)
            before = part(state, name) or State()
            if state is not None:
                kept = (*k.shape[:2], within, k.shape[-1])
                check(before, k, keys=kept, values=kept)
            found.append(before.with_pairs(rotate(k, begin + within), v))
        keys, values = ([held.tensors[name] for held in found] for name in ("keys", "values"))
        if self.persistent is not None:
            k, v = (z.expand(len(x), -1, -1, -1) for z in heads.pairs(self.persistent[None]))
            keys, values = [rotate(k, 0), *keys], [v, *values]
        upto = x.new_ones(tokens, seen).tril(seen - tokens).bool()
        mask = torch.cat([upto.new_ones(tokens, first), upto, upto], dim=1)
        q = rotate(heads.queries(x), first + self.segment + within)
        k, v = (torch.cat(z, dim=2) for z in (keys, values))
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return heads.merge(y), *found

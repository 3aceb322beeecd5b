"""Softmax attention as a layer of its own: heads, rotary positions, a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import pad

from miras_search.lower.attend import windowed
from miras_search.lower.call import State
from miras_search.nn.rotary import rotate
from miras_search.nn.state import check, part

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.nn.state import LayerState


class Heads(nn.Module):
    """Queries, keys and values of each head by linear maps, and a linear map of what comes back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def queries(self, x: Tensor) -> Tensor:
        """x `[B, T, D]` to `[B, H, T, K]`."""
        return self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values: x `[B, T, D]` to `[B, H, T, K]` twice."""
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k.transpose(1, 2), v.transpose(1, 2)

    def merge(self, y: Tensor) -> Tensor:
        """y `[B, H, T, K]` to `[B, T, D]`."""
        return self.output(y.transpose(1, 2).flatten(2))


class WindowAttention(nn.Module):
    """Each token attends to the last `window` tokens, its own among them, by their distance, and to
    persistent tokens, which have no place and are always there (Titans 2501.00663, section 4.2).

    `persistent` tokens are its own; others can be given.
    """

    def __init__(self, width: int, heads: int, window: int, persistent: int = 0) -> None:
        super().__init__()
        self.attention = Heads(width, heads)
        self.window = window
        self.persistent = nn.Parameter(torch.randn(persistent, width)) if persistent else None

    def forward(
        self, x: Tensor, state: LayerState | None = None, persistent: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token: rotated keys and values
        of the last window - 1 tokens. Persistent tokens are `[P, D]`."""
        if persistent is None:
            persistent = self.persistent
        q, (k, v) = self.attention.queries(x), self.attention.pairs(x)
        past = part(state, "pairs") or State()
        if past.tensors:
            kept = (*k.shape[:2], min(past.position, self.window - 1), k.shape[-1])
            check(past, k, keys=kept, values=kept)
        turned, here = rotate(q, past.position), rotate(k, past.position)
        held = past.with_pairs(here, v)
        k, v = held.tensors["keys"], held.tensors["values"]
        if persistent is None:
            y = windowed(turned, k, v, self.window)
        else:
            # A query is matched as it is with persistent tokens, and turned with all others.
            batch, width = len(x), q.shape[-1]
            first = self.attention.pairs(persistent[None])
            always_k, always_v = (z.expand(batch, -1, -1, -1) for z in first)
            y = windowed(
                torch.cat([turned, q], dim=-1),
                pad(k, (0, width)),
                v,
                self.window,
                scale=width**-0.5,
                always=(pad(always_k, (width, 0)), always_v),
            )
        return self.attention.merge(y), {"pairs": held.last(self.window - 1)}

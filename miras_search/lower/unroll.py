"""A matrix under any algorithm and gate: its weights are formed at every token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.lower.call import RETAIN, Gates
from miras_search.lower.tiles import each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from miras_search.variant import Variant

TILE = 16
"""Tokens that are moved and read together."""

Slots = list["Tensor"]
"""`[B, H, out, in]` each, the state first."""


@dataclass(frozen=True)
class Unrolling:
    """How one matrix moves. What is carried is its slots."""

    variant: Variant
    tile: int = TILE
    """Tokens at a time."""

    @staticmethod
    def pack(slots: Sequence[Tensor]) -> Slots:
        """What is carried."""
        return list(slots)

    @staticmethod
    def unpack(z: Slots) -> Sequence[Tensor]:
        """The slots, the state first."""
        return z

    def prepare(self, gates: Gates, k: Tensor, tile: int) -> list[list[Gates]]:
        """The gates `[B, H, C, *, *]` of each chunk and tile, for gates `[B, H, chunks, C, *, *]`
        and keys `[B, H, chunks, C, K]`."""
        chunks = [each(g, k.shape[2]) for g in gates.values()]
        found = []
        for now in zip(*chunks, strict=True):
            count = math.ceil(k.shape[3] / tile)
            tiles = [g.split(tile, 2) if g.dim() else (g,) * count for g in now]
            found.append([dict(zip(gates, cut, strict=True)) for cut in zip(*tiles, strict=True)])
        return found

    def at(self, z: Slots, u: Tensor, h: Tensor, gates: Gates) -> Unrolled:
        """The matrix during a tile: u `[B, H, P + C, out]` and h `[B, H, P + C, in]` with P =
        window - 1 tokens before it.

        What has to wait for the token before does no more than that: directions and memories are
        computed for all tokens at once.
        """
        algorithm, retention = self.variant.algorithm, self.variant.retention
        gradient = u[..., None] * h[..., None, :]
        if algorithm.window_length > 1:
            gradient = gradient.unfold(2, algorithm.window_length, 1).sum(-1)
        length = gradient.shape[2]
        entered = h[:, :, h.shape[2] - length :, None, :]
        columns = [each(g, length) for g in gates.values()]
        by_token = [dict(zip(gates, now, strict=True)) for now in zip(*columns, strict=True)]
        tokens = list(zip(gradient.unbind(2), entered.unbind(2), by_token, strict=True))
        passed: list[Slots] = []
        if algorithm.linear:
            for g, x, now in tokens:
                state, *sums = algorithm.advance(z, g, x, now[RETAIN], now)
                z = [retention.settle(state, now), *sums]
                passed.append(z)
        else:
            state, *sums = z
            summed: list[Slots] = []
            for g, x, now in tokens:
                sums = algorithm.sums(sums, g, x, now[RETAIN], now)
                summed.append(sums)
            moves = gates["step"] * algorithm.direction(_stacked(summed), gradient, gates)
            for move, sums, now in zip(moves.unbind(2), summed, by_token, strict=True):
                state = retention.settle(now[RETAIN] * state - move, now)
                passed.append([state, *sums])
        weights = retention.expose(algorithm.expose(_stacked(passed), gates))
        return Unrolled(weights, passed[-1])


@dataclass(frozen=True)
class Unrolled:
    """The memory that every token of a tile reads, and the slots after the last."""

    weights: Tensor
    """`[B, H, C, out, in]`"""
    slots: Slots

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[B, H, C, in]`, giving `[B, H, C, out]`."""
        return (self.weights @ x[..., None])[..., 0]

    def end(self) -> Slots:
        """The slots after the last token."""
        return self.slots


def _stacked(by_token: list[Slots]) -> Slots:
    """One tensor for each slot, `[B, H, C, out, in]`."""
    return [torch.stack(slot, dim=2) for slot in zip(*by_token, strict=True)]

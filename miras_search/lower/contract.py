"""A matrix under a linear algorithm and gate: weights of single tokens are never formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.lower.coefficients import Coefficients, of_gates
from miras_search.lower.tiles import fold, segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.variant import Variant

TILE = 64
"""Tokens that are moved and read together."""
SIDE_TILE = 16
"""The same where rows or columns have coefficients of their own."""


@dataclass(frozen=True)
class Contraction:
    """How one matrix moves. What is carried is one tensor, the slots transposed and the state
    first: z `[B, H, n, in, out]`."""

    variant: Variant
    rows: bool
    """Whether coefficients are of rows of the matrix."""
    tile: int
    """Tokens at a time."""

    @staticmethod
    def pack(slots: Sequence[Tensor]) -> Tensor:
        """What is carried, of the slots `[B, H, out, in]` of a state."""
        return torch.stack([slot.mT for slot in slots], dim=2)

    @staticmethod
    def unpack(z: Tensor) -> Sequence[Tensor]:
        """The slots, the state first."""
        return z.mT.unbind(2)

    def prepare(self, gates: Gates, k: Tensor, tile: int) -> list[list[Coefficients]]:
        """The coefficients of each chunk and tile, for gates `[B, H, chunks, C, *, *]` and keys
        `[B, H, chunks, C, K]`."""
        algorithm, chunks = self.variant.algorithm, k.shape[2]
        found: list[list[Coefficients]] = [[] for _ in range(chunks)]
        for start, length, count in segments(0, k.shape[3], tile):
            cut = {name: fold(g, start, length, count, dim=3) for name, g in gates.items()}
            every = of_gates(algorithm, cut, 1.0, k.new_zeros(length, 1), self.rows)
            every = every.summed(algorithm.window_length)
            every = every.map(
                lambda x, count=count: x.expand(*k.shape[:3], count, *x.shape[-3:]).flatten(2, 3)
            )
            for i, c in enumerate(every.unbind(2)):
                found[i // count].append(c)
        return found

    def at(self, z: Tensor, u: Tensor, h: Tensor, coefficients: Coefficients) -> Contracted:
        """The matrix during a tile."""
        return Contracted(z, u, h, coefficients, self.rows)


@dataclass(frozen=True)
class Contracted:
    """What is carried into a tile, its writes u h^T, and who sees what of them."""

    z: Tensor
    """`[..., n, in, out]`"""
    u: Tensor
    """`[..., C, out]`"""
    h: Tensor
    """`[..., C, in]`"""
    coefficients: Coefficients
    rows: bool

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[..., C, in]`, giving `[..., C, out]`."""
        seen = self.coefficients.read_write
        kept = read_carried(self.z, x, self.coefficients.read_carry, self.rows)
        if self.rows:
            return kept - torch.einsum("...ti,...tio,...io->...to", x @ self.h.mT, seen, self.u)
        return kept - overlap(seen, x, self.h) @ self.u

    def end(self) -> Tensor:
        """What is carried out of the tile, `[..., n, in, out]`."""
        c, shape = self.coefficients, self.z.shape[-3:-1]
        if self.rows:
            written = self.h.mT[..., None, :, :] @ (c.end_write * self.u[..., None, :]).transpose(
                -3, -2
            )
            kept = c.end_carry[..., None, :] * self.z[..., None, :, :, :]
        else:
            written = (c.end_write * self.h[..., None, :]).flatten(-2).mT @ self.u
            written = written.unflatten(-2, shape)
            kept = c.end_carry[..., None] * self.z[..., None, :, :, :]
        return kept.sum(-3) - written if shape[0] > 1 else kept[..., 0, :, :] - written


def read_carried(z: Tensor, x: Tensor, carry: Tensor, rows: bool) -> Tensor:
    """sum_j carry[t, j] Z[j] x_t for carry `[..., C, n, *]` and x `[..., C, in]`."""
    if rows:
        return (carry.transpose(-3, -2) * (x[..., None, :, :] @ z)).sum(-3)
    return (carry * x[..., None, :]).flatten(-2) @ z.flatten(-3, -2)


def overlap(seen: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """x_t . h_i weighted by seen `[..., C, C, 1 or in]`, giving `[..., C, C]`."""
    if seen.shape[-1] == 1:
        return seen[..., 0] * (x @ h.mT)
    return ((seen * h[..., None, :, :]) @ x[..., None])[..., 0]

"""A matrix under a linear algorithm: under a linear gate no weights of single tokens are formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.lower.coefficients import Coefficients, by_tile, of_gates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.retention.base import Retention
    from miras_search.variant import Variant

TILE = 64
"""Tokens that are moved and read together."""
SMALL_TILE = 16
"""The same where rows or columns have coefficients of their own, or states are formed."""


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
        algorithm = self.variant.algorithm

        def make(cut: Gates, tokens: Tensor) -> list[Coefficients]:
            c = of_gates(algorithm, cut, 1.0, tokens, self.rows)
            return [c.summed(algorithm.window_length)]

        return [[c for (c,) in tiles] for tiles in by_tile(gates, k, tile, make)]

    def at(self, z: Tensor, u: Tensor, h: Tensor, coefficients: Coefficients) -> Contracted | Shown:
        """The matrix during a tile."""
        now = Contracted(z, u, h, coefficients, self.rows)
        return now if self.variant.retention.linear else Shown(self.variant.retention, now)


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
            return kept + torch.einsum("...ti,...tio,...io->...to", x @ self.h.mT, seen, self.u)
        return plus_product(kept, overlap(seen, x, self.h), self.u)

    def end(self) -> Tensor:
        """What is carried out of the tile, `[..., n, in, out]`."""
        c = self.coefficients
        if self.rows:
            writes = (c.end_write * self.u[..., None, :]).transpose(-3, -2)
            return mixed(c.end_carry, self.z, True) + self.h.mT[..., None, :, :] @ writes
        kept = mixed(c.end_carry, self.z, False).flatten(-3, -2)
        return plus_product(kept, weighted(self.h, c.end_write).mT, self.u).view_as(self.z)


@dataclass(frozen=True)
class Shown:
    """The same behind a mirror map: the states of all tokens are formed, and shown."""

    retention: Retention
    now: Contracted

    def read(self, x: Tensor) -> Tensor:
        """psi(A_t) x_t for each token t: x `[..., C, in]`, giving `[..., C, out]`."""
        now = self.now
        states = formed(now.z, now.u, now.h, now.coefficients, now.rows)
        return (self.retention.expose(states) @ x[..., None])[..., 0]

    def end(self) -> Tensor:
        """What is carried out of the tile, `[..., n, in, out]`."""
        return self.now.end()


def mixed(carry: Tensor, z: Tensor, rows: bool) -> Tensor:
    """sum_j carry[m, j] Z[j] for carry `[..., n, n, *]` and z `[..., n, in, out]`."""
    if z.shape[-3] == 1:
        return (carry[..., None, :] if rows else carry[..., None])[..., 0, :, :, :] * z
    if carry.shape[-1] == 1:
        return (carry[..., 0] @ z.flatten(-2)).unflatten(-1, z.shape[-2:])
    side = carry[..., None, :] if rows else carry[..., None]
    return (side * z[..., None, :, :, :]).sum(-3)


def formed(z: Tensor, u: Tensor, h: Tensor, c: Coefficients, rows: bool) -> Tensor:
    """The state after every token, `[..., C, out, in]`, for z `[..., n, in, out]`."""
    if c.read_carry.shape[-1] == 1:
        # One large product, of all that is carried and written.
        written = h[..., :, None] * u[..., None, :]
        both = torch.cat([z.expand(*written.shape[:-3], *z.shape[-3:]), written], dim=-3)
        seen = torch.cat([c.read_carry, c.read_write], dim=-2)[..., 0]
        return (seen @ both.flatten(-2)).unflatten(-1, both.shape[-2:]).mT
    if rows:
        kept = (c.read_carry[..., None, :] * z[..., None, :, :, :]).sum(-3)
        return (kept + h.mT[..., None, :, :] @ (c.read_write * u[..., None, :, :])).mT
    kept = (c.read_carry[..., None] * z[..., None, :, :, :]).sum(-3)
    return (kept + (c.read_write * h[..., None, :, :]).mT @ u[..., None, :, :]).mT


def weighted(x: Tensor, c: Tensor) -> Tensor:
    """Inputs as each of n carried tensors takes them: x `[..., C, in]`, c `[..., C, n, *]`, giving
    `[..., C, n in]`."""
    return (c * x[..., None, :]).flatten(-2)


def plus_product(kept: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """kept + a @ b in one operation, `[..., m, n]`."""
    return torch.baddbmm(*(x.flatten(0, -3) for x in (kept, a, b))).view_as(kept)


def read_carried(z: Tensor, x: Tensor, carry: Tensor, rows: bool) -> Tensor:
    """sum_j carry[t, j] Z[j] x_t for carry `[..., C, n, *]` and x `[..., C, in]`."""
    if rows:
        return (carry.transpose(-3, -2) * (x[..., None, :, :] @ z)).sum(-3)
    return weighted(x, carry) @ z.flatten(-3, -2)


def overlap(seen: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """x_t . h_i weighted by seen `[..., C, C, 1 or in]`, giving `[..., C, C]`."""
    if seen.shape[-1] == 1:
        return seen[..., 0] * (x @ h.mT)
    return ((seen * h[..., None, :, :]) @ x[..., None])[..., 0]

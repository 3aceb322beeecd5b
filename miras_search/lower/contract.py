"""A matrix under a linear algorithm: under a linear gate no weights of single tokens are formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.lower.coefficients import Coefficients, by_tile, of_gates
from miras_search.lower.products import moved, sum_of_products

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.retention.base import Retention
    from miras_search.variant import Variant

Slots = list["Tensor"]
"""What is carried, `[B, H, out, in]` each, the state first."""

TILE = 64
"""Tokens that are moved and read together."""
SMALL_TILE = 16
"""The same where rows or columns have coefficients of their own, or states are formed."""


@dataclass(frozen=True)
class Contraction:
    """How one matrix moves."""

    variant: Variant
    rows: bool
    """Whether coefficients are of rows of the matrix."""
    tile: int
    """Tokens at a time."""

    def prepare(self, gates: Gates, k: Tensor, tile: int) -> list[list[Coefficients]]:
        """The coefficients of each chunk and tile, for gates `[B, H, chunks, C, *, *]` and keys
        `[B, H, chunks, C, K]`."""
        algorithm = self.variant.algorithm

        def make(cut: Gates, tokens: Tensor) -> list[Coefficients]:
            c = of_gates(algorithm, cut, 1.0, tokens, self.rows)
            return [c.summed(algorithm.window_length)]

        return [[c for (c,) in tiles] for tiles in by_tile(gates, k, tile, make)]

    def at(
        self, z: Slots, u: Tensor, h: Tensor, coefficients: Coefficients
    ) -> Contracted | Shown | Single:
        """The matrix during a tile."""
        now, retention = Contracted(z, u, h, coefficients, self.rows), self.variant.retention
        if coefficients.read_carry.shape[-3] == 1:
            return Single(retention, now.end())
        return now if retention.linear else Shown(retention, now)


@dataclass(frozen=True)
class Contracted:
    """What is carried into a tile, its writes u h^T, and who sees what of them."""

    z: Slots
    u: Tensor
    """`[..., C, out]`"""
    h: Tensor
    """`[..., C, in]`"""
    coefficients: Coefficients
    rows: bool

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[..., C, in]`, giving `[..., C, out]`."""
        c, z, u = self.coefficients, self.z, self.u
        if self.rows:
            seen = torch.einsum("...ti,...tio,...io->...to", x @ self.h.mT, c.read_write, u)
            return plus_carried(seen, z, x, c.read_carry)
        written = (overlap(c.read_write, x, self.h), u)
        if of_outputs(z[0], c.read_carry, self.rows):
            return plus_carried(sum_of_products(written), z, x, c.read_carry)
        carries = zip(c.read_carry.unbind(-2), z, strict=True)
        return sum_of_products(written, *((carry * x, w.mT) for carry, w in carries))

    def end(self) -> Slots:
        """What is carried out of the tile."""
        carry = self.coefficients.end_carry
        carry = carry[..., :, None] if self.rows else carry[..., None, :]
        writes = self.coefficients.end_write.unbind(-2)
        if of_outputs(self.z[0], self.coefficients.end_carry, self.rows):
            return moved(carry, self.z, [c * self.u for c in writes], [self.h])
        return moved(carry, self.z, [self.u], [c * self.h for c in writes])


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

    def end(self) -> Slots:
        """What is carried out of the tile."""
        return self.now.end()


@dataclass(frozen=True)
class Single:
    """The same where the tile is of one token, which reads the state that it leaves."""

    retention: Retention
    slots: Slots

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t: x `[..., 1, in]`, giving `[..., 1, out]`."""
        return x @ self.retention.expose(self.slots[0]).mT

    def end(self) -> Slots:
        """What is carried out of the tile."""
        return self.slots


def formed(z: Slots, u: Tensor, h: Tensor, c: Coefficients, rows: bool) -> Tensor:
    """The state after every token, `[..., C, out, in]`, for z `[..., out, in]` each."""
    carried = torch.stack(list(z), dim=-3)  # [..., n, out, in]
    if c.read_carry.shape[-1] == 1:
        # One large product, of all that is carried and written.
        written = u[..., :, None] * h[..., None, :]
        both = torch.cat([carried.expand(*written.shape[:-3], *carried.shape[-3:]), written], -3)
        seen = torch.cat([c.read_carry, c.read_write], dim=-2)[..., 0]
        return (seen @ both.flatten(-2)).unflatten(-1, both.shape[-2:])
    if rows:
        kept = (c.read_carry[..., None] * carried[..., None, :, :, :]).sum(-3)
        return kept + (c.read_write * u[..., None, :, :]).mT @ h[..., None, :, :]
    kept = (c.read_carry[..., None, :] * carried[..., None, :, :, :]).sum(-3)
    return kept + u.mT[..., None, :, :] @ (c.read_write * h[..., None, :, :])


def of_outputs(w: Tensor, c: Tensor, rows: bool) -> bool:
    """Whether coefficients `[..., 1 or out or in]` multiply what leaves a matrix `[..., out, in]`,
    and not what enters it: where there is a choice, whatever is smaller."""
    return rows or (c.shape[-1] == 1 and w.shape[-2] < w.shape[-1])


def plus_carried(y: Tensor, z: Slots, x: Tensor, carry: Tensor) -> Tensor:
    """y_t + sum_j carry[t, j] Z[j] x_t, coefficients being of outputs: carry `[..., C, n, 1 or
    out]`, x `[..., C, in]` and y `[..., C, out]`."""
    for c, w in zip(carry.unbind(-2), z, strict=True):
        y = y.addcmul(c, x @ w.mT)
    return y


def overlap(seen: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """x_t . h_i weighted by seen `[..., C, C, 1 or in]`, giving `[..., C, C]`."""
    if seen.shape[-1] == 1:
        return seen.squeeze(-1) * (x @ h.mT)
    return ((seen * h[..., None, :, :]) @ x[..., None])[..., 0]

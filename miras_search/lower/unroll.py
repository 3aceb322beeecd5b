"""A matrix that has no causal coefficients: its weights are formed at every token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.algorithm.base import Transition
from miras_search.lower.call import RETAIN, Gates
from miras_search.lower.coefficients import Coefficients, by_tile, flat, multiply_out
from miras_search.lower.contract import formed
from miras_search.lower.tiles import each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from miras_search.variant import Variant

TILE = 16
"""Tokens that are moved and read together."""

Slots = list["Tensor"]
"""`[B, H, out, in]` each, the state first; `[B, H, C, out, in]` after every token of a tile."""


@dataclass(frozen=True)
class Unrolling:
    """How one matrix moves. What is carried is its slots.

    Running sums, and a state that moves along directions made of them, still have causal
    coefficients and are formed for all tokens of a tile at once. A proximal gate, and gates of rows
    and columns at once, go token by token.
    """

    variant: Variant
    rows: bool
    """Whether gates are of rows of the matrix."""
    columns: bool
    """Whether they are of columns."""
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

    @property
    def stepwise(self) -> bool:
        """Whether all slots wait for the token before."""
        return self.variant.algorithm.linear or (self.rows and self.columns)

    def prepare(self, gates: Gates, k: Tensor, tile: int) -> list[list[Tile]]:
        """What `at` needs of each chunk and tile, for gates `[B, H, chunks, C, *, *]` and keys
        `[B, H, chunks, C, K]`."""
        chunks, count = k.shape[2], math.ceil(k.shape[3] / tile)
        coefficients: list[list[list[Coefficients]]] = [[[]] * count] * chunks
        if not self.stepwise:
            coefficients = by_tile(gates, k, tile, self._coefficients)
        columns = [each(g, chunks) for g in gates.values()]
        found = []
        for now, mine in zip(zip(*columns, strict=True), coefficients, strict=True):
            tiles = [g.split(tile, 2) if g.dim() else (g,) * count for g in now]
            by_name = (dict(zip(gates, cut, strict=True)) for cut in zip(*tiles, strict=True))
            found.append([*zip(by_name, mine, strict=True)])
        return found

    def _coefficients(self, gates: Gates, tokens: Tensor) -> list[Coefficients]:
        """Of each sum, and of the state as directions move it."""
        retain = gates[RETAIN]
        found = []
        for update in self.variant.algorithm.sums(retain, gates):
            carry, inject = (flat(x, self.rows) for x in (update.carry, update.inject))
            found.append(multiply_out(Transition(((carry,),), (inject,)), 1.0, tokens))
        moved = Transition(((flat(retain, self.rows),),), (1.0,))
        return [*found, multiply_out(moved, flat(-gates["step"], self.rows), tokens)]

    def at(self, z: Slots, u: Tensor, h: Tensor, prepared: Tile) -> Unrolled:
        """The matrix during a tile: u `[B, H, P + C, out]` and h `[B, H, P + C, in]` with P =
        window - 1 tokens before it."""
        algorithm, (gates, coefficients) = self.variant.algorithm, prepared
        gradient = u[..., None] * h[..., None, :]
        if algorithm.window_length > 1:
            gradient = gradient.unfold(2, algorithm.window_length, 1).sum(-1)
        h = h[:, :, h.shape[2] - gradient.shape[2] :]
        if self.stepwise:
            passed = self._one_by_one(z, gradient, h, gates)
        else:
            passed = self._by_direction(z, gradient, h, gates, coefficients)
        weights = self.variant.retention.expose(algorithm.expose(passed, gates))
        return Unrolled(weights, [slot[:, :, -1] for slot in passed])

    def _one_by_one(self, z: Slots, gradient: Tensor, h: Tensor, gates: Gates) -> Slots:
        passed = []
        inputs = zip(gradient.unbind(2), h[..., None, :].unbind(2), _tokens(gates, h), strict=True)
        for g, x, now in inputs:
            state, *sums = self.variant.algorithm.advance(z, g, x, now[RETAIN], now)
            z = [self.variant.retention.settle(state, now), *sums]
            passed.append(z)
        return [torch.stack(slot, dim=2) for slot in zip(*passed, strict=True)]

    def _by_direction(
        self, z: Slots, gradient: Tensor, h: Tensor, gates: Gates, coefficients: list[Coefficients]
    ) -> Slots:
        algorithm, retention = self.variant.algorithm, self.variant.retention
        (state, *past), (*of_sums, of_state), sums = z, coefficients, []
        for update, old, c in zip(algorithm.sums(gates[RETAIN], gates), past, of_sums, strict=True):
            if update.of == "input":
                sums.append(formed(old.mT[:, :, None], h, h, c, self.rows))
            else:
                x = gradient if update.of == "gradient" else gradient.square()
                sums.append(_scanned(old, x, c, self.rows))
        moves = algorithm.direction(sums, gradient, gates)
        if not retention.proximal:
            return [_scanned(state, moves, of_state, self.rows), *sums]
        states = []
        moves = (gates["step"] * moves).unbind(2)
        for move, now in zip(moves, _tokens(gates, h), strict=True):
            state = retention.settle(now[RETAIN] * state - move, now)
            states.append(state)
        return [torch.stack(states, dim=2), *sums]


Tile = tuple[Gates, list[Coefficients]]
"""The gates of a tile, `[B, H, C, *, *]`, and its coefficients where there are any."""


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


def _scanned(old: Tensor, x: Tensor, c: Coefficients, rows: bool) -> Tensor:
    """Z_t = carry Z_{t-1} + inject x_t for all tokens, x and result `[B, H, C, out, in]`."""
    seen, carry = c.read_write, c.read_carry[..., 0, :]  # [B, H, C, C, *] and [B, H, C, *]
    if seen.shape[-1] == 1:
        kept = carry[..., None] * old[:, :, None]
        return kept + (seen[..., 0] @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
    if rows:
        return carry[..., None] * old[:, :, None] + torch.einsum("bhtso,bhsoi->bhtoi", seen, x)
    kept = carry[..., None, :] * old[:, :, None]
    return kept + torch.einsum("bhtsi,bhsoi->bhtoi", seen, x)


def _tokens(gates: Gates, h: Tensor) -> list[Gates]:
    """The gates of one token after another."""
    columns = [each(g, h.shape[2]) for g in gates.values()]
    return [dict(zip(gates, now, strict=True)) for now in zip(*columns, strict=True)]

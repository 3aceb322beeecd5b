"""A matrix that is not read through causal coefficients: its weights are formed at every token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from miras_search.algorithm.base import Transition
from miras_search.lower.call import RETAIN, Gates
from miras_search.lower.coefficients import Coefficients, by_tile, flat, multiply_out, of_gates
from miras_search.lower.contract import Contracted, Slots, formed
from miras_search.lower.tiles import each

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.variant import Variant

TILES = (16, 64)
"""Fewest and most tokens that are moved and read together."""
ENTRIES = 2**17
"""Of the states that are formed together, if there can be as few."""


@dataclass(frozen=True)
class Unrolling:
    """How one matrix moves. What is carried is its slots.

    What waits for no state (running sums, and a state that moves along directions made of them)
    still has causal coefficients, and is formed for all tokens of a tile at once. A state under a
    proximal gate, and gates of rows and columns at once, go token by token.
    """

    variant: Variant
    rows: bool
    """Whether gates are of rows of the matrix."""
    columns: bool
    """Whether they are of columns."""
    entries: int
    """Of one state, `[B, H, out, in]`."""

    @property
    def tile(self) -> int:
        """Tokens at a time."""
        few, many = TILES
        fitting = max(1, ENTRIES // max(1, self.entries))
        return max(few, min(many, 1 << fitting.bit_length() - 1))

    @property
    def stepwise(self) -> bool:
        """Whether all slots wait for the token before."""
        return self.rows and self.columns

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
        """Of each sum, and of the state as pushes move it; of a linear algorithm, those of all that
        it would carry if nothing of the state were kept."""
        algorithm = self.variant.algorithm
        if algorithm.linear:
            forgotten = gates | {RETAIN: torch.zeros_like(gates[RETAIN])}
            c = of_gates(algorithm, forgotten, 1.0, tokens, self.rows)
            return [c.summed(algorithm.window_length)]
        by_name = {name: flat(g, self.rows) for name, g in gates.items()}
        retain = by_name[RETAIN]
        sums = [((x.carry,), x.inject) for x in algorithm.sums(retain, by_name)]
        every = (Transition((carry,), (inject,)) for carry, inject in [*sums, ((retain,), 1.0)])
        return [multiply_out(one, 1.0, tokens) for one in every]

    def at(self, z: Slots, u: Tensor, h: Tensor, prepared: Tile) -> Unrolled:
        """The matrix during a tile: u `[B, H, P + C, out]` and h `[B, H, P + C, in]` with P =
        window - 1 tokens before it."""
        algorithm, (gates, coefficients) = self.variant.algorithm, prepared
        if algorithm.linear and not self.stepwise:
            return Unrolled(self.variant, self._pushed(z, u, h, gates, *coefficients), gates)
        gradient = u[..., None] * h[..., None, :]
        if algorithm.window_length > 1:
            gradient = gradient.unfold(2, algorithm.window_length, 1).sum(-1)
        h = h[:, :, h.shape[2] - gradient.shape[2] :]
        if self.stepwise:
            passed = self._one_by_one(z, gradient, h, gates)
        else:
            passed = self._directed(z, gradient, h, gates, coefficients)
        return Unrolled(self.variant, passed, gates)

    def _pushed(self, z: Slots, u: Tensor, h: Tensor, gates: Gates, c: Coefficients) -> Slots:
        """A linear algorithm under a proximal gate: what it adds to the state waits for nothing."""
        pushes = formed(z, u, h, c, self.rows)
        states = self.variant.retention.settle_all(z[0], pushes, gates[RETAIN], gates)
        _, *sums = Contracted(z, u, h, c, self.rows).end()
        return [states, *(x[:, :, None] for x in sums)]

    def _one_by_one(self, z: Slots, gradient: Tensor, h: Tensor, gates: Gates) -> Slots:
        passed = []
        inputs = zip(gradient.unbind(2), h[..., None, :].unbind(2), _tokens(gates, h), strict=True)
        for g, x, now in inputs:
            state, *sums = self.variant.algorithm.advance(z, g, x, now[RETAIN], now)
            z = [self.variant.retention.settle(state, now), *sums]
            passed.append(z)
        return [torch.stack(slot, dim=2) for slot in zip(*passed, strict=True)]

    def _directed(
        self, z: Slots, gradient: Tensor, h: Tensor, gates: Gates, coefficients: list[Coefficients]
    ) -> Slots:
        """An algorithm whose state moves along directions made of sums."""
        algorithm, retention = self.variant.algorithm, self.variant.retention
        (state, *past), (*of_sums, of_state), sums = z, coefficients, []
        for update, old, c in zip(algorithm.sums(gates[RETAIN], gates), past, of_sums, strict=True):
            if update.of == "input":
                sums.append(formed([old], h, h, c, self.rows))
            else:
                x = gradient if update.of == "gradient" else gradient.square()
                sums.append(_scanned(old, x, c, self.rows))
        pushes = -gates["step"] * algorithm.direction(sums, gradient, gates)
        if retention.proximal:
            return [retention.settle_all(state, pushes, gates[RETAIN], gates), *sums]
        return [_scanned(state, pushes, of_state, self.rows), *sums]


Tile = tuple[Gates, list[Coefficients]]
"""The gates of a tile, `[B, H, C, *, *]`, and its coefficients where there are any."""


@dataclass(frozen=True)
class Unrolled:
    """A matrix at every token of a tile."""

    variant: Variant
    slots: Slots
    """`[B, H, C, out, in]` each; only the last token's of what nothing but the next tile needs."""
    gates: Gates

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[B, H, C, in]`, giving `[B, H, C, out]`."""
        weights = self.variant.retention.expose(self.slots[0])
        return (weights @ self.variant.algorithm.probe(x, self.slots, self.gates)[..., None])[
            ..., 0
        ]

    def end(self) -> Slots:
        """The slots after the last token: copies, as views would hold those of every token."""
        return [slot[:, :, -1].clone() for slot in self.slots]


def _scanned(old: Tensor, x: Tensor, c: Coefficients, rows: bool) -> Tensor:
    """Z_t = carry Z_{t-1} + inject x_t for all tokens, x and result `[B, H, C, out, in]`."""
    seen, carry = c.read_write, c.read_carry[..., 0, :]  # [B, H, C, C, *] and [B, H, C, *]
    kept = (carry[..., None] if rows else carry[..., None, :]) * old[:, :, None]
    if seen.shape[-1] == 1:
        return kept + (seen[..., 0] @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
    return kept + torch.einsum("bhtso,bhsoi->bhtoi" if rows else "bhtsi,bhsoi->bhtoi", seen, x)


def _tokens(gates: Gates, h: Tensor) -> list[Gates]:
    """The gates of one token after another."""
    columns = [each(g, h.shape[2]) for g in gates.values()]
    return [dict(zip(gates, now, strict=True)) for now in zip(*columns, strict=True)]

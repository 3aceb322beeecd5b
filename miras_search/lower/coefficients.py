"""Transitions of single tokens multiplied out into the causal coefficients of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from miras_search.lower.call import RETAIN, Gates
from miras_search.lower.tiles import fold, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miras_search.algorithm.base import Algorithm, Transition

G = TypeVar("G", Tensor, Tensor | float)


@dataclass(frozen=True)
class Coefficients:
    """What each of the C tokens of a tile sees of n carried tensors Z and of the writes u h^T.

        W_t    = sum_j read_carry[t, j] Z[j] + sum_{i <= t} read_write[t, i] u_i h_i^T
        Z_C[m] = sum_j end_carry[m, j]  Z[j] + sum_i        end_write[i, m]  u_i h_i^T

    Each has leading dimensions of the gates and a last dimension of 1, of `out` for gates per row
    of the matrix, or of `in` for gates per column.
    """

    read_carry: Tensor
    """`[..., C, n, *]`"""
    read_write: Tensor
    """`[..., C, C, *]`, zero above the diagonal."""
    end_carry: Tensor
    """`[..., n, n, *]`"""
    end_write: Tensor
    """`[..., C, n, *]`"""

    def __iter__(self) -> Iterator[Tensor]:
        """The four tensors, in order."""
        return iter((self.read_carry, self.read_write, self.end_carry, self.end_write))

    def unbind(self, dim: int) -> Iterator[Coefficients]:
        """Those of each piece along a leading dimension."""
        return (Coefficients(*x) for x in zip(*(x.unbind(dim) for x in self), strict=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> Coefficients:
        """The same with a function applied to each tensor."""
        return Coefficients(*map(function, self))

    def summed(self, window: int) -> Coefficients:
        """The same where a token writes the last `window` gradients: those of the window - 1 tokens
        before the tile come first among the writes."""
        if window == 1:
            return self
        wide = (0, 0, window - 1, window - 1)
        read = functional.pad(self.read_write, wide).unfold(-2, window, 1).sum(-1)
        end = functional.pad(self.end_write, (0, 0, *wide)).unfold(-3, window, 1).sum(-1)
        return Coefficients(self.read_carry, read, self.end_carry, end)

    def before(self) -> tuple[Tensor, Tensor]:
        """`read_carry` and `read_write` of W_{t-1}: what a token sees before its own write."""
        first = torch.zeros_like(self.read_carry[..., :1, :, :])
        first[..., 0, :] = 1
        carry = torch.cat([first, self.read_carry[..., :-1, :, :]], dim=-3)
        return carry, functional.pad(self.read_write[..., :-1, :, :], (0, 0, 0, 0, 1, 0))


def multiply_out(update: Transition, step: Tensor | float, tokens: Tensor) -> Coefficients:
    """The coefficients of tiles whose tokens have the transitions `update` and move by `step` times
    what these inject: entries and steps are `[..., C, *]`, or numbers.

    Neighbouring blocks of tokens are joined until one is left: C^2 work in log C operations.
    Nothing is divided and no logarithm taken, so that a factor of 0 is exact. `tokens` `[C, 1]`
    gives length, dtype and device.
    """
    n, length = len(update.inject), tokens.shape[0]
    entries = [x for row in update.carry for x in row] + [step * x for x in update.inject]
    every = torch.broadcast_tensors(
        tokens, *(x if isinstance(x, Tensor) else tokens.new_full((), x or 0.0) for x in entries)
    )[1:]
    # A block: all of it, what its tokens read of what enters it, and what is left of their writes.
    whole = torch.stack(every[: n * n], dim=-2).unflatten(-2, (n, n))  # [..., C, n, n, *]
    left = torch.stack(every[n * n :], dim=-2)  # [..., C, n, *]
    padding = (1 << (length - 1).bit_length()) - length
    if padding:
        rest = torch.eye(n, dtype=tokens.dtype, device=tokens.device)[..., None]
        rest = rest.expand(*whole.shape[:-4], padding, *whole.shape[-3:-1], whole.shape[-1])
        whole = torch.cat([whole, rest], dim=-4)
        left = functional.pad(left, (0, 0, 0, 0, 0, padding))
    seen = left[..., None, :1, :]  # [..., blocks, s, s, *]
    read = whole[..., None, 0, :, :]  # [..., blocks, s, n, *]
    left = left[..., None, :, :]  # [..., blocks, s, n, *]
    while seen.shape[-4] > 1:
        s = seen.shape[-3]
        halves = [_halves(x, dim) for x, dim in ((seen, -4), (read, -4), (left, -4), (whole, -4))]
        (seen_1, seen_2), (read_1, read_2), (left_1, left_2), (whole_1, whole_2) = halves
        across = _times(read_2, left_1.transpose(-3, -2))
        seen = torch.cat(
            [functional.pad(seen_1, (0, 0, 0, s)), torch.cat([across, seen_2], dim=-2)], dim=-3
        )
        read = torch.cat([read_1, _times(read_2, whole_1)], dim=-3)
        left = torch.cat([_times(left_1, whole_2.transpose(-3, -2)), left_2], dim=-3)
        whole = _times(whole_2, whole_1)
    return Coefficients(
        read_carry=read.squeeze(-4)[..., :length, :, :],
        read_write=seen.squeeze(-4)[..., :length, :length, :],
        end_carry=whole.squeeze(-4),
        end_write=left.squeeze(-4)[..., :length, :, :],
    )


def by_tile(
    gates: Gates, k: Tensor, tile: int, make: Callable[[Gates, Tensor], list[Coefficients]]
) -> list[list[list[Coefficients]]]:
    """What `make` gives for each chunk and tile, computed for all of them at once.

    Gates are `[B, H, chunks, C, *, *]` and keys `[B, H, chunks, C, K]`; `make` gets gates with
    tokens in the dimension after the tiles, and one row `[length, 1]` of what tokens look like.
    """
    chunks = k.shape[2]
    found: list[list[list[Coefficients]]] = [[] for _ in range(chunks)]
    for start, length, count in segments(0, k.shape[3], tile):
        cut = {name: fold(g, start, length, count, dim=3) for name, g in gates.items()}
        lead = (*k.shape[:3], count)
        every = [
            [*c.map(lambda x, lead=lead: x.expand(*lead, *x.shape[-3:]).flatten(2, 3)).unbind(2)]
            for c in make(cut, k.new_zeros(length, 1))
        ]
        for i, parts in enumerate(zip(*every, strict=True)):
            found[i // count].append([*parts])
    return found


def flat(gate: G, rows: bool) -> G:
    """A gate `[..., out or 1, in or 1]` of one side, `[..., *]`; a number as it is."""
    if not isinstance(gate, Tensor) or gate.dim() == 0:
        return gate
    return gate.squeeze(-1 if rows else -2)


def of_gates(
    algorithm: Algorithm, gates: Gates, scale: Tensor | float, tokens: Tensor, rows: bool
) -> Coefficients:
    """The coefficients of a linear algorithm for the gates of a matrix, `[..., C, *, *]`, and a
    factor on each gradient."""
    by_name = {name: flat(g, rows) for name, g in gates.items()}
    update = algorithm.transition(by_name[RETAIN], by_name)
    return multiply_out(update, flat(-gates["step"] * scale, rows), tokens)


def _halves(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Every other block, from the first and from the second."""
    first, second = x.unflatten(dim, (-1, 2)).unbind(dim)
    return first, second


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows `[..., s, n, *]` times a matrix `[..., n, m, *]`."""
    if rows.shape[-1] == 1 and rows.shape[-2] > 1:
        return (rows.squeeze(-1) @ matrix.squeeze(-1))[..., None]
    return (rows[..., None, :] * matrix[..., None, :, :, :]).sum(-3)

"""Memories W x whose gradient is affine in what they recall: the delta rule and linear attention.

The gradients of a tile of tokens solve one triangular system (the WY form of DeltaNet 2406.06484,
here for every linear algorithm and gate), so that each is taken at the memory just before its token
although no token waits for another: the function is that of the token loop, whatever the tile.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from miras_search.lower.call import RETAIN, Call, State
from miras_search.lower.coefficients import of_gates
from miras_search.lower.contract import overlap, plus_product, read_carried, weighted
from miras_search.lower.tiles import fold, segments
from miras_search.lower.triangular import inverse

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.lower.contract import Contraction

    Solve = Callable[[int, Tensor], Tensor]
    """u `[B, H, C, V]` of a tile by its number, given what is carried into it."""


def linear(call: Call, motion: Contraction) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token."""
    ((matrix, gates),) = call.weight_gates.items()
    slots, outputs = call.variant.algorithm.slots, []
    z = motion.pack([call.state.tensors[f"{slot}/{matrix}"] for slot in slots])
    for start, length, count in segments(0, call.tokens, motion.tile):
        cut = partial(fold, start=start, length=length, count=count)
        q, k, v = map(cut, (call.q, call.k, call.v))
        now, bias_gates = ({n: cut(g) for n, g in x.items()} for x in (gates, call.bias_gates))
        y, z = _tiles(motion, q, k, v, now, bias_gates, z)
        outputs.append(y.flatten(2, 3))
    tensors = {f"{s}/{matrix}": x for s, x in zip(slots, motion.unpack(z), strict=True)}
    return torch.cat(outputs, dim=2), State(tensors, call.state.position + call.tokens)


def _tiles(
    motion: Contraction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    bias_gates: Gates,
    z: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs of tiles, `[B, H, count, C, V]`, and what is carried after the last of them."""
    variant, bias, rows = motion.variant, motion.variant.written, motion.rows
    scale = variant.algorithm.scale(k.new_zeros(()), k[..., None, :], gates)
    c = of_gates(variant.algorithm, gates, scale, k.new_zeros(k.shape[-2], 1), rows)
    c = c.map(lambda x: x.expand(*k.shape[:3], *x.shape[-3:]))
    if bias.uses_prediction:
        carry, seen = c.before()
        if variant.decays_first:
            retain = gates[RETAIN]
            factor = retain.squeeze(-1 if rows else -2)[..., None, :] if retain.dim() else retain
            carry, seen = factor * carry, factor * seen
        solve = (_solve_rows if rows else _solve)(k, v, carry, seen)
    else:
        solve = _known(bias.gradient(torch.zeros_like(v), v, bias_gates))
    states, us = [], []
    for i, (key, mine) in enumerate(zip(k.unbind(2), c.unbind(2), strict=True)):
        states.append(z)
        us.append(solve(i, z))
        z = motion.at(z, us[-1], key, mine).end()
    return motion.at(torch.stack(states, 2), torch.stack(us, 2), k, c).read(q), z


def _known(u: Tensor) -> Solve:
    """Where gradients never look at the memory, they are what they are."""
    by_tile = u.unbind(2)
    return lambda tile, _: by_tile[tile]


def _solve(k: Tensor, v: Tensor, carry: Tensor, seen: Tensor) -> Solve:
    """One system for all columns of u."""
    solved = inverse(-overlap(seen, k, k))
    reads = (solved @ weighted(k, carry)).unbind(2)
    wanted = (solved @ -v).unbind(2)
    return lambda tile, z: plus_product(wanted[tile], reads[tile], z.flatten(-3, -2))


def _solve_rows(k: Tensor, v: Tensor, carry: Tensor, seen: Tensor) -> Solve:
    """One system for each column of u: coefficients are of rows."""
    below = -seen * (k @ k.mT)[..., None]
    solved = inverse(below.movedim(-1, -3)).unbind(2)  # each [B, H, out, C, C]
    keys, wanted, carries = k.unbind(2), v.unbind(2), carry.unbind(2)

    def solve(tile: int, z: Tensor) -> Tensor:
        missed = read_carried(z, keys[tile], carries[tile], rows=True) - wanted[tile]
        return (solved[tile] @ missed.mT[..., None])[..., 0].mT

    return solve

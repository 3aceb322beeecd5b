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
from miras_search.lower.contract import overlap, plus_carried
from miras_search.lower.scan import scan
from miras_search.lower.tiles import fold, segments
from miras_search.lower.triangular import inverse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.lower.coefficients import Coefficients
    from miras_search.lower.contract import Contraction, Slots

    Tiles = tuple[Tensor, Slots, Slots]
    """u `[B, H, tiles, C, V]`, what is carried into each tile, `[B, H, tiles, V, K]`, and out of
    the last."""


def linear(call: Call, motion: Contraction) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token."""
    ((matrix, gates),) = call.weight_gates.items()
    slots, outputs = call.variant.algorithm.slots, []
    z = [call.state.tensors[f"{slot}/{matrix}"] for slot in slots]
    qkv = [x.contiguous() for x in (call.q, call.k, call.v)]
    for start, length, count in segments(0, call.tokens, motion.tile):
        cut = partial(fold, start=start, length=length, count=count)
        q, k, v = map(cut, qkv)
        now, bias_gates = ({n: cut(g) for n, g in x.items()} for x in (gates, call.bias_gates))
        y, z = _tiles(motion, q, k, v, now, bias_gates, z)
        outputs.append(y.flatten(2, 3))
    tensors = {f"{s}/{matrix}": x for s, x in zip(slots, z, strict=True)}
    return torch.cat(outputs, dim=2), State(tensors, call.state.position + call.tokens)


def _tiles(
    motion: Contraction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    bias_gates: Gates,
    z: Slots,
) -> tuple[Tensor, Slots]:
    """Outputs of tiles, `[B, H, count, C, V]`, and what is carried after the last of them."""
    variant, bias, rows = motion.variant, motion.variant.written, motion.rows
    scale = variant.algorithm.scale(k.new_zeros(()), k[..., None, :], gates)
    c = of_gates(variant.algorithm, gates, scale, k.new_zeros(k.shape[-2], 1), rows)
    c = c.map(lambda x: x.expand(*k.shape[:3], *x.shape[-3:]))
    if not bias.uses_prediction:
        u = bias.gradient(torch.zeros_like(v), v, bias_gates)
        us, states, z = _scanned(c, u, z, k, rows)
    else:
        carry, seen = c.before()
        if variant.decays_first:
            retain = gates[RETAIN]
            factor = retain.squeeze(-1 if rows else -2)[..., None, :] if retain.dim() else retain
            carry, seen = factor * carry, factor * seen
        if rows:
            us, states, z = _solved_rows(motion, c, (carry, seen), z, k, v)
        else:
            solved = inverse(overlap(seen, k, k))
            reads = [solved @ (x * k) for x in carry.unbind(-2)]
            us, states, z = _scanned(c, -(solved @ v), z, k, rows, reads)
    return motion.at(states, us, k, c).read(q), z


def _scanned(
    c: Coefficients, u: Tensor, z: Slots, k: Tensor, rows: bool, reads: Sequence[Tensor] = ()
) -> Tiles:
    """Of writes that are known but for what they read of what is carried; those with coefficients
    of rows are known, and scanned as the transposed matrix, whose columns they are."""
    carry, writes = c.end_carry[..., None, :], c.end_write.unbind(-2)
    if not rows:
        return scan(carry, u, z, [x * k for x in writes], reads)
    _, states, z = scan(carry, k, [x.mT for x in z], [x * u for x in writes])
    return u, [x.mT for x in states], [x.mT.contiguous() for x in z]


def _solved_rows(
    motion: Contraction,
    c: Coefficients,
    before: tuple[Tensor, Tensor],
    z: Slots,
    k: Tensor,
    v: Tensor,
) -> Tiles:
    """One system for each column of u: coefficients are of rows."""
    carry, seen = before
    below = seen * (k @ k.mT)[..., None]
    solved = inverse(below.movedim(-1, -3))  # [B, H, tiles, out, C, C]
    states, us = [], []
    tiles = (solved.unbind(2), k.unbind(2), v.unbind(2), carry.unbind(2), c.unbind(2))
    for inverted, key, value, seen_of_z, mine in zip(*tiles, strict=True):
        missed = plus_carried(-value, z, key, seen_of_z)
        us.append((inverted @ missed.mT[..., None])[..., 0].mT)
        states.append(z)
        z = motion.at(z, us[-1], key, mine).end()
    return torch.stack(us, 2), [torch.stack(slots, 2) for slots in zip(*states, strict=True)], z

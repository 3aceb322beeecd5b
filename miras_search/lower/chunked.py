"""The papers' parallel form: a chunk at a time, every gradient of a chunk in one backward pass.

Memory and bias give, for each token i and matrix, a write u_i h_i^T (`anchored`). What becomes of
it has two forms. Where retention and algorithm are linear they say, for each token t, how much of
each write and of what was carried in is in W_t, and W_t x is read without ever forming W_t
(`contract`). For everything else the weights of each token of a tile are formed (`unroll`), but one
backward pass still serves all of them.

Where the memory is W x and its gradient affine in what it recalls, there is no anchor (`linear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from miras_search.lower import contract, window
from miras_search.lower.anchored import scaled, writes
from miras_search.lower.call import RETAIN, WINDOW, Call, Gates, State
from miras_search.lower.coefficients import Coefficients
from miras_search.lower.compiled import compiled
from miras_search.lower.contract import Contraction
from miras_search.lower.linear import linear
from miras_search.lower.recomputed import recomputed
from miras_search.lower.tiles import each, fold, segments
from miras_search.lower.unroll import Unrolling
from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from miras_search.variant import Variant


def chunked(call: Call, compile: bool = False, recompute: bool = False) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token.

    With `compile`, whole chunks go through torch.compile; with `recompute`, the backward pass
    computes each chunk again. Neither is of use where there is no anchor.
    """
    memory = call.variant.memory
    if isinstance(memory, GrowingMemory):
        state = call.state.with_pairs(call.k, call.v)
        y = memory.read(call.q, state.tensors["keys"], state.tensors["values"])
        return y, state.last(memory.kept)
    assert isinstance(memory, ParametricMemory)
    moves = {m: _motion(call, m) for m in call.weight_gates}
    first, *others = moves.values()
    if call.variant.affine and isinstance(first, Contraction) and not others:
        return linear(call, first)
    return _learn(call, memory, moves, compile, recompute)


def _motion(call: Call, matrix: str) -> Contraction | Unrolling:
    """How a matrix moves: causal coefficients are not of rows and columns at once."""
    algorithm, retention = call.variant.algorithm, call.variant.retention
    gates, state = call.weight_gates[matrix], call.state.tensors[f"{algorithm.slots[0]}/{matrix}"]
    rows, columns = (any(g.dim() and g.shape[d] > 1 for g in gates.values()) for d in (-2, -1))
    if not algorithm.linear or retention.proximal or (rows and columns):
        return Unrolling(call.variant, rows, columns, state.numel())
    small = rows or columns or not retention.linear
    tile = contract.SMALL_TILE if small else contract.TILE
    return Contraction(call.variant, rows, tile)


def _learn(
    call: Call,
    memory: ParametricMemory,
    moves: dict[str, Contraction | Unrolling],
    compile: bool,
    recompute: bool,
) -> tuple[Tensor, State]:
    variant, slots, before = call.variant, call.variant.algorithm.slots, call.state.tensors
    z: dict[str, Any] = {m: [before[f"{s}/{m}"] for s in slots] for m in moves}
    offset = call.state.position % variant.anchor_every
    anchor = {m: before[f"anchor/{m}"] for m in moves} if offset else {}
    outputs, past = [], window.carried(call)
    tile = min(move.tile for move in moves.values())
    # Laid out once: of `[B, T, H, *]` every product would copy its chunk.
    qkv = [x.contiguous() for x in (call.q, call.k, call.v)]
    every = call.weight_gates  # what is made of gates is made once for matrices that share them
    alike = {m: next(o for o in moves if every[o] is every[m]) for m in moves}
    size = tile if variant.gradient_is_constant else variant.anchor_every
    for start, length, count in segments(offset, call.tokens, size):
        cut = partial(fold, start=start, length=length, count=count)
        q, k, v = map(cut, qkv)
        gates = {m: {n: cut(g) for n, g in every[m].items()} for m in alike.values()}
        prepared: dict[str, Any] = {m: moves[m].prepare(g, k, tile) for m, g in gates.items()}
        by_matrix = {m: _each(g, count) for m, g in gates.items()}
        by_chunk = zip(
            *(x.unbind(2) for x in (q, k, v)),
            _each({name: cut(g) for name, g in call.bias_gates.items()}, count),
            zip(*(by_matrix[m] for m in alike.values()), strict=True),
            zip(*(prepared[m] for m in alike.values()), strict=True),
            strict=True,
        )
        for q_c, k_c, v_c, bias_gates, weight_gates, ready in by_chunk:
            mine = dict(zip(moves, weight_gates, strict=True))
            tokens = window.extend(past, window.piece(k_c, v_c, bias_gates, mine))
            if past:
                bias_gates = window.bias_gates_of(tokens, call)
            past = window.last(tokens, variant.algorithm.window_length - 1)
            anchor = anchor or {m: z[m][0] for m in moves}
            chunk = Chunk(
                q=q_c,
                k=tokens["keys"],
                v=tokens["values"],
                bias_gates=bias_gates,
                gates=mine,
                importance={m: window.importance_of(tokens, call, m) for m in moves},
                decay={m: _decay(mine[m], length) for m in moves if variant.decays_first},
                prepared=dict(zip(moves, ready, strict=True)),
            )
            advance = _fast_advance() if compile and length == size else _advance
            if recompute:
                advance = recomputed(advance)
            y, z = advance(variant, memory, moves, tile, anchor, z, chunk)
            outputs.append(y)
            offset = (offset + length) % variant.anchor_every
            if not offset:
                anchor = {}
            elif chunk.decay:
                anchor = {m: chunk.decay[m][:, :, -1] * a for m, a in anchor.items()}
    tensors = {f"{s}/{m}": x for m in moves for s, x in zip(slots, z[m], strict=True)}
    tensors |= {f"anchor/{m}": a for m, a in anchor.items()}
    tensors |= {f"{WINDOW}{name}": x for name, x in past.items()}
    # Copies: views would hold the states of a tile, or all that was read.
    tensors = {name: x.clone() for name, x in tensors.items()}
    return torch.cat(outputs, dim=2), State(tensors, call.state.position + call.tokens)


@dataclass(frozen=True)
class Chunk:
    """The tokens of a chunk, and what else depends on nothing that is carried."""

    q: Tensor
    """`[B, H, C, K]`"""
    k: Tensor
    """`[B, H, P + C, K]`, those of a window before the chunk first."""
    v: Tensor
    """`[B, H, P + C, V]`"""
    bias_gates: Gates
    """Of all of these."""
    gates: dict[str, Gates]
    """Of the C tokens, for each matrix."""
    importance: dict[str, Tensor | float]
    """Weights of the P + C gradients, for each matrix."""
    decay: dict[str, Tensor]
    """What is kept of the anchor up to each token, where gradients are taken there."""
    prepared: dict[str, Any]
    """What the motion of each matrix needs, tile by tile."""


pytree.register_dataclass(Chunk)
pytree.register_dataclass(Coefficients)


def _advance(
    variant: Variant,
    memory: ParametricMemory,
    moves: dict[str, Contraction | Unrolling],
    tile: int,
    anchor: dict[str, Tensor],
    z: dict[str, Any],
    chunk: Chunk,
) -> tuple[Tensor, dict[str, Any]]:
    """Outputs of a chunk `[B, H, C, V]`, and what is carried after it."""
    shown = {m: variant.retention.expose(a) for m, a in anchor.items()}
    u, h = writes(variant, shown, chunk.k, chunk.v, chunk.bias_gates, chunk.decay)
    length, outputs = chunk.q.shape[2], []
    pieces = {}
    for m in moves:
        weighted = scaled(variant, u[m], h[m], chunk.gates[m], chunk.importance[m])
        past = variant.algorithm.window_length - 1
        cuts = (_tiles(x, length, tile, past) for x in (weighted, h[m]))
        pieces[m] = list(zip(*cuts, chunk.prepared[m], strict=True))
    for i, x in enumerate(chunk.q.split(tile, 2)):
        now = {m: move.at(z[m], *pieces[m][i]) for m, move in moves.items()}
        outputs.append(memory.apply({m: now[m].read for m in moves}, x))
        z = {m: now[m].end() for m in moves}
    return torch.cat(outputs, dim=2), z


@cache
def _fast_advance() -> Any:
    return compiled(_advance)


def _each(gates: Gates, count: int) -> list[Gates]:
    """The gates of one chunk after another."""
    columns = [each(g, count) for g in gates.values()]
    if not columns:
        return [{}] * count
    return [dict(zip(gates, now, strict=True)) for now in zip(*columns, strict=True)]


def _tiles(x: Tensor, length: int, tile: int, past: int) -> list[Tensor]:
    """The tiles of a chunk `[B, H, n, *]`, each behind the `past` tokens of the window before it;
    there may be too few of them, and then zeros come first."""
    if not past:
        return list(x.split(tile, 2))
    x = functional.pad(x, (0, 0, length + past - x.shape[2], 0))
    return [x[:, :, a : min(a + tile, length) + past] for a in range(0, length, tile)]


def _decay(gates: Gates, length: int) -> Tensor:
    """The product of the retention factors up to each token, `[B, H, C, ...]`."""
    retain = gates[RETAIN]
    if retain.dim() == 0:
        retain = retain.expand(1, 1, length, 1, 1)
    return retain.cumprod(2)

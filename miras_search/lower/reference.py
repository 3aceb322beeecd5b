"""The definition: one token after another, by the gradient of the inner loss itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad

from miras_search.lower import window
from miras_search.lower.anchored import norm_of
from miras_search.lower.call import RETAIN, WINDOW, Call, Gates, State
from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miras_search.variant import Variant

Weights = dict[str, Tensor]
"""The matrices of a memory by name, each `[B, H, out, in]`."""


def reference(call: Call) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token, for every legal variant."""
    return _grow(call) if call.variant.memory.grows else _learn(call)


def _grow(call: Call) -> tuple[Tensor, State]:
    memory = call.variant.memory
    assert isinstance(memory, GrowingMemory)
    state, outputs = call.state, []
    for q, k, v in zip(*(x.split(1, dim=2) for x in (call.q, call.k, call.v)), strict=True):
        state = state.with_pairs(k, v)
        outputs.append(memory.read(q, state.tensors["keys"], state.tensors["values"]))
        state = state.last(memory.kept)
    return torch.cat(outputs, dim=2), state


def _learn(call: Call) -> tuple[Tensor, State]:
    variant, matrices = call.variant, list(call.weight_gates)
    algorithm, retention, slots = variant.algorithm, variant.retention, variant.algorithm.slots
    tensors = {n: x for n, x in call.state.tensors.items() if not n.startswith(WINDOW)}
    position, outputs, past = call.state.position, [], window.carried(call)
    qkv = zip(*(x.split(1, dim=2) for x in (call.q, call.k, call.v)), strict=True)
    bias_gates = _by_token(call.bias_gates, call.tokens)
    weight_gates = {m: _by_token(call.weight_gates[m], call.tokens) for m in matrices}
    for q, k, v in qkv:
        gates = {m: next(weight_gates[m]) for m in matrices}
        if position % variant.anchor_every == 0:
            tensors |= {f"anchor/{m}": tensors[f"{slots[0]}/{m}"] for m in matrices}
        if variant.decays_first:
            tensors |= {
                f"anchor/{m}": _now(gates[m])[RETAIN] * tensors[f"anchor/{m}"] for m in matrices
            }
        anchor = {m: retention.expose(tensors[f"anchor/{m}"]) for m in matrices}
        tokens = window.extend(past, window.piece(k, v, next(bias_gates), gates))
        past = window.last(tokens, algorithm.window_length - 1)
        gradient, h = _gradients(call, anchor, tokens, gates)
        for m in matrices:
            now = _now(gates[m])
            old = [tensors[f"{slot}/{m}"] for slot in slots]
            state, *others = algorithm.advance(old, gradient[m], h[m], now[RETAIN], now)
            new = (retention.settle(state, now), *others)
            tensors |= {f"{slot}/{m}": z for slot, z in zip(slots, new, strict=True)}
        outputs.append(_read(variant, tensors, gates, q[:, :, 0]))
        position += 1
    if position % variant.anchor_every == 0:
        tensors = {name: z for name, z in tensors.items() if not name.startswith("anchor/")}
    kept = {f"{WINDOW}{name}": x for name, x in past.items()}
    return torch.stack(outputs, dim=2), State(tensors | kept, position)


def _gradients(
    call: Call, anchor: Weights, tokens: window.Piece, gates: dict[str, Gates]
) -> tuple[Weights, Weights]:
    """The scaled gradient of the window's tokens for each matrix, `[B, H, out, in]`, and what the
    last of them sent into the matrix, `[B, H, 1, in]`.
    """
    variant, h = call.variant, {}
    total: Weights = {}
    keys, values = (tokens[name].unbind(2) for name in ("keys", "values"))
    bias_gates = _by_token(window.bias_gates_of(tokens, call), len(keys))
    for i, (k, v) in enumerate(zip(keys, values, strict=True)):
        gradient, h = inner_gradient(variant, anchor, k, v, _now(next(bias_gates)))
        for m, g in gradient.items():
            norm = norm_of(g.flatten(-2))[..., None]
            weight = window.importance_of(tokens, call, m)
            if isinstance(weight, Tensor) and weight.dim():
                weight = weight[:, :, i, :, None]
            scale = variant.algorithm.scale(norm, h[m], _now(gates[m]))
            total[m] = weight * scale * g + total.get(m, 0.0)
    return total, h


def inner_gradient(
    variant: Variant, weights: Weights, k: Tensor, v: Tensor, gates: Gates
) -> tuple[Weights, Weights]:
    """The gradient of the bias at one token with respect to each matrix, by autograd, and what
    entered each matrix, `[B, H, 1, in]`.

    k `[B, H, K]` and v `[B, H, V]`; the gradient has the shape of the weights.
    """

    def loss(w: Weights) -> tuple[Tensor, Weights]:
        entered: Weights = {}
        recalled = _recall(variant, w, k, entered)
        return variant.written.loss(recalled, v, gates).sum(), entered

    return grad(loss, has_aux=True)(weights)


def _recall(
    variant: Variant, weights: Weights, x: Tensor, entered: Weights | None = None
) -> Tensor:
    """M(x; W) for one token: x `[B, H, K]`, giving `[B, H, V]`; `entered` is filled in."""
    memory = variant.memory
    assert isinstance(memory, ParametricMemory)

    def through(m: str, h: Tensor) -> Tensor:
        if entered is not None:
            entered[m] = h[..., None, :]
        return (weights[m] @ h[..., None])[..., 0]

    return memory.apply({m: lambda h, m=m: through(m, h) for m in weights}, x)


def _read(variant: Variant, state: Weights, gates: dict[str, Gates], q: Tensor) -> Tensor:
    """What the memory of a state recalls at q `[B, H, K]`, `[B, H, V]`."""
    memory, algorithm = variant.memory, variant.algorithm
    assert isinstance(memory, ParametricMemory)

    def through(m: str, x: Tensor) -> Tensor:
        slots = [state[f"{slot}/{m}"] for slot in algorithm.slots]
        shown = variant.retention.expose(slots[0])
        return (shown @ algorithm.probe(x, slots, _now(gates[m]))[..., None])[..., 0]

    return memory.apply({m: partial(through, m) for m in gates}, q)


def _by_token(gates: Gates, tokens: int) -> Iterator[Gates]:
    """The gates of one token after another, each `[B, H, 1, ...]` or a scalar."""
    columns = [g.split(1, dim=2) if g.dim() else (g,) * tokens for g in gates.values()]
    for t in range(tokens):
        yield {name: column[t] for name, column in zip(gates, columns, strict=True)}


def _now(gates: Gates) -> Gates:
    """The gates of a single token without the dimension of tokens."""
    return {name: g[:, :, 0] if g.dim() else g for name, g in gates.items()}

"""The definition: one token after another, by the gradient of the inner loss itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad

from miras_search.lower.call import Call, Gates, State
from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miras_search.algorithm.base import Transition
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
    return torch.cat(outputs, dim=2), state


def _learn(call: Call) -> tuple[Tensor, State]:
    variant, matrices = call.variant, list(call.weight_gates)
    slots = variant.algorithm.slots
    tensors = dict(call.state.tensors)
    position, outputs = call.state.position, []
    qkv = zip(*(x.unbind(2) for x in (call.q, call.k, call.v)), strict=True)
    bias_gates = _by_token(call.bias_gates, call.tokens)
    weight_gates = {m: _by_token(call.weight_gates[m], call.tokens) for m in matrices}
    for q, k, v in qkv:
        if position % variant.anchor_every == 0:
            tensors |= {f"anchor/{m}": tensors[f"{slots[0]}/{m}"] for m in matrices}
        anchor = {m: tensors[f"anchor/{m}"] for m in matrices}
        gradient = inner_gradient(variant, anchor, k, v, next(bias_gates))
        for m in matrices:
            gates = next(weight_gates[m])
            update = variant.algorithm.transition(variant.retention.retain(gates), gates)
            old = [tensors[f"{slot}/{m}"] for slot in slots]
            new = _advance(update, old, _rows(gates["step"]) * gradient[m])
            tensors |= {f"{slot}/{m}": z for slot, z in zip(slots, new, strict=True)}
        outputs.append(_recall(variant, {m: tensors[f"{slots[0]}/{m}"] for m in matrices}, q))
        position += 1
    if position % variant.anchor_every == 0:
        tensors = {name: z for name, z in tensors.items() if not name.startswith("anchor/")}
    return torch.stack(outputs, dim=2), State(tensors, position)


def inner_gradient(
    variant: Variant, weights: Weights, k: Tensor, v: Tensor, gates: Gates
) -> Weights:
    """The gradient of the bias at one token with respect to each matrix, by autograd.

    k `[B, H, K]` and v `[B, H, V]`; the result has the shape of the weights.
    """

    def loss(w: Weights) -> Tensor:
        return variant.bias.loss(_recall(variant, w, k), v, gates).sum()

    return grad(loss)(weights)


def _recall(variant: Variant, weights: Weights, x: Tensor) -> Tensor:
    """M(x; W) for one token: x `[B, H, K]`, giving `[B, H, V]`."""
    memory = variant.memory
    assert isinstance(memory, ParametricMemory)
    maps = {m: lambda h, w=w: (w @ h[..., None])[..., 0] for m, w in weights.items()}
    return memory.apply(maps, x)


def _advance(update: Transition, old: Sequence[Tensor], write: Tensor) -> list[Tensor]:
    """One token's transition of every slot, `[B, H, out, in]` each."""
    return [
        sum(
            (_rows(c) * z for c, z in zip(carry, old, strict=True) if c is not None),
            -_rows(inject) * write,
        )
        for carry, inject in zip(update.carry, update.inject, strict=True)
    ]


def _rows(coefficient: Tensor | float) -> Tensor | float:
    """A coefficient `[B, H, 1 or out]` as it multiplies the rows of `[B, H, out, in]`."""
    if isinstance(coefficient, Tensor) and coefficient.dim() > 0:
        return coefficient[..., None]
    return coefficient


def _by_token(gates: Gates, tokens: int) -> Iterator[Gates]:
    """The gates of one token after another, each `[B, H, 1 or channels]` or a scalar."""
    columns = [g.unbind(2) if g.dim() else (g,) * tokens for g in gates.values()]
    for t in range(tokens):
        yield {name: column[t] for name, column in zip(gates, columns, strict=True)}

"""The papers' parallel form: a chunk at a time, every gradient of a chunk in one backward pass.

Two halves meet in one contraction. Memory and bias give, for each token i and matrix, a write
u_i h_i^T (`writes`). Retention and algorithm give, for each token t, how much of each write and
of what was carried in is in W_t (`coefficients`). So W_t x is read without ever forming W_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.func import vjp

from miras_search.lower.call import Call, Gates, State
from miras_search.lower.coefficients import Coefficients, multiply_out
from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from miras_search.variant import Variant

TILE = 64
"""Tokens computed together where the variant's meaning leaves it open."""


def chunked(call: Call) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token."""
    return _grow(call) if call.variant.memory.grows else _learn(call)


def _grow(call: Call) -> tuple[Tensor, State]:
    memory, state = call.variant.memory, call.state.with_pairs(call.k, call.v)
    assert isinstance(memory, GrowingMemory)
    return memory.read(call.q, state.tensors["keys"], state.tensors["values"]), state


def _learn(call: Call) -> tuple[Tensor, State]:
    variant, tensors, outputs = call.variant, dict(call.state.tensors), []
    slots, matrices = variant.algorithm.slots, list(call.weight_gates)
    offset = call.state.position % variant.anchor_every
    size = TILE if variant.gradient_is_constant else variant.chunk
    for start, length, count in _segments(offset, call.tokens, size):
        fold = partial(_fold, start=start, length=length, count=count)
        q, k, v = (_each(fold(x), count) for x in (call.q, call.k, call.v))
        bias_gates = {name: _each(fold(g), count) for name, g in call.bias_gates.items()}
        weight_gates = {
            m: {name: fold(g) for name, g in gates.items()}
            for m, gates in call.weight_gates.items()
        }
        step = {m: _each(gates["step"], count) for m, gates in weight_gates.items()}
        seen = {
            m: _coefficients(variant, gates, k[0].new_zeros(length, 1), count)
            for m, gates in weight_gates.items()
        }
        for c in range(count):
            carried = {m: [tensors[f"{slot}/{m}"] for slot in slots] for m in matrices}
            anchor = {m: tensors.get(f"anchor/{m}", carried[m][0]) for m in matrices}
            gates = {name: g[c] for name, g in bias_gates.items()}
            u, h = writes(variant, anchor, k[c], v[c], gates)
            chunk = {m: Chunk(carried[m], step[m][c] * u[m], h[m], seen[m][c]) for m in matrices}
            outputs.append(_memory(variant).apply({m: chunk[m].read for m in matrices}, q[c]))
            tensors = {
                f"{slot}/{m}": z
                for m in matrices
                for slot, z in zip(slots, chunk[m].end(), strict=True)
            }
            if (offset := (offset + length) % variant.anchor_every) != 0:
                tensors |= {f"anchor/{m}": anchor[m] for m in matrices}
    return torch.cat(outputs, dim=2), State(tensors, call.state.position + call.tokens)


def writes(
    variant: Variant, anchor: Mapping[str, Tensor], k: Tensor, v: Tensor, gates: Gates
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The factors of each token's gradient, u `[B, H, C, out]` and h `[B, H, C, in]` by matrix.

    The gradient of the bias at token i with respect to matrix W is u_i h_i^T: h is what enters
    the map, and u what comes back to a zero tap on what leaves it. One backward pass through the
    memory at the weights `anchor` serves the whole chunk, k `[B, H, C, K]` and v `[B, H, C, V]`.
    """

    def recall(taps: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = {}

        def tapped(m: str, x: Tensor) -> Tensor:
            h[m] = x
            return x @ anchor[m].mT + taps[m]

        return _memory(variant).apply({m: partial(tapped, m) for m in anchor}, k), h

    taps = {m: k.new_zeros(*k.shape[:-1], w.shape[-2]) for m, w in anchor.items()}
    recalled, backward, *(h,) = vjp(recall, taps, has_aux=True)
    (u,) = backward(variant.bias.gradient(recalled, v, gates))
    return u, h


@dataclass(frozen=True)
class Chunk:
    """One matrix during one chunk: the carried tensors, the writes, and who sees what of them."""

    carried: list[Tensor]
    """n tensors `[B, H, out, in]`, the weights first."""
    u: Tensor
    """`[B, H, C, out]`, the step included."""
    h: Tensor
    """`[B, H, C, in]`"""
    coefficients: Coefficients

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[B, H, C, in]`, giving `[B, H, C, out]`."""
        c = self.coefficients
        carry = c.read_carry.unbind(-2)
        kept = sum(a * (x @ z.mT) for a, z in zip(carry, self.carried, strict=True))
        overlap = x @ self.h.mT
        if c.read_write.shape[-1] == 1:
            return kept - (c.read_write[..., 0] * overlap) @ self.u
        seen = c.read_write * self.u[..., None, :, :]  # [B, H, C, C, out]
        return kept - (overlap[..., None, :] @ seen)[..., 0, :]

    def end(self) -> list[Tensor]:
        """The carried tensors after the last token."""
        c = self.coefficients
        return [
            sum(a[..., None] * z for a, z in zip(carry.unbind(-2), self.carried, strict=True))
            - (write * self.u).mT @ self.h
            for carry, write in zip(c.end_carry.unbind(-3), c.end_write.unbind(-3), strict=True)
        ]


def _coefficients(variant: Variant, gates: Gates, tokens: Tensor, count: int) -> list[Coefficients]:
    """The coefficients of each of `count` chunks, for gates `[B, H, count, C, *]`."""
    update = variant.algorithm.transition(variant.retention.retain(gates), gates)
    whole = multiply_out(update, tokens)
    fields = (whole.read_carry, whole.read_write, whole.end_carry, whole.end_write)
    return [Coefficients(*parts) for parts in zip(*(_each(x, count) for x in fields), strict=True)]


def _fold(x: Tensor, start: int, length: int, count: int) -> Tensor:
    """Tokens of `[B, H, T, *]` as chunks, `[B, H, count, length, *]`; a scalar as it is."""
    if x.dim() == 0:
        return x
    return x[:, :, start : start + length * count].unflatten(2, (count, length))


def _each(x: Tensor, count: int) -> Sequence[Tensor]:
    """One tensor for each chunk; what is the same for every batch and chunk is repeated.

    Taken apart once, before the loop: the backward of a slice allocates the whole tensor.
    """
    return x.unbind(2) if x.dim() > 3 else (x,) * count


def _memory(variant: Variant) -> ParametricMemory:
    assert isinstance(variant.memory, ParametricMemory)
    return variant.memory


def _segments(offset: int, tokens: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, length, count): the rest of an open chunk, whole chunks, the start of the last."""
    head = min(-offset % size, tokens)
    body, tail = divmod(tokens - head, size)
    for start, length, count in ((0, head, 1), (head, size, body), (tokens - tail, tail, 1)):
        if length and count:
            yield start, length, count

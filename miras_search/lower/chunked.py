"""The papers' parallel form: a chunk at a time, every gradient of a chunk in one backward pass.

Memory and bias give, for each token i and matrix, a write u_i h_i^T (`writes`). What becomes of it
has two forms. Where retention and algorithm are linear they give, for each token t, how much of
each write and of what was carried in is in W_t (`coefficients`), and W_t x is read without ever
forming W_t (`Contracted`). Everything else moves token by token inside the chunk (`Unrolled`): C
weights are formed, but one backward pass still serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.func import vjp

from miras_search.lower import window
from miras_search.lower.call import RETAIN, WINDOW, Call, Gates, State
from miras_search.lower.coefficients import Coefficients, multiply_out
from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from miras_search.variant import Variant

TILE = 64
"""Tokens computed together where the variant's meaning leaves it open."""
SMALL_TILE = 16
"""The same where weights are formed for every token."""


def chunked(call: Call) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token."""
    return _grow(call) if call.variant.memory.grows else _learn(call)


def _grow(call: Call) -> tuple[Tensor, State]:
    memory, state = call.variant.memory, call.state.with_pairs(call.k, call.v)
    assert isinstance(memory, GrowingMemory)
    y = memory.read(call.q, state.tensors["keys"], state.tensors["values"])
    return y, state.last(memory.kept)


def _learn(call: Call) -> tuple[Tensor, State]:
    variant, matrices = call.variant, list(call.weight_gates)
    retention, slots = variant.retention, variant.algorithm.slots
    tensors = {n: x for n, x in call.state.tensors.items() if not n.startswith(WINDOW)}
    outputs, past = [], window.carried(call)
    offset = call.state.position % variant.anchor_every
    contracts = {m: _contracts(variant, call.weight_gates[m]) for m in matrices}
    size = variant.anchor_every
    if variant.gradient_is_constant:
        size = TILE if all(contracts.values()) else SMALL_TILE
    for start, length, count in _segments(offset, call.tokens, size):
        fold = partial(_fold, start=start, length=length, count=count)
        q, k, v = (_each(fold(x), count) for x in (call.q, call.k, call.v))
        bias_gates = {name: _each(fold(g), count) for name, g in call.bias_gates.items()}
        folded = {
            m: {name: fold(g) for name, g in gates.items()}
            for m, gates in call.weight_gates.items()
        }
        weight_gates = {
            m: {name: _each(g, count) for name, g in gates.items()} for m, gates in folded.items()
        }
        seen = {
            m: _coefficients(variant, folded[m], k[0].new_zeros(length, 1), count)
            for m in matrices
            if contracts[m]
        }
        for c in range(count):
            carried = {m: [tensors[f"{slot}/{m}"] for slot in slots] for m in matrices}
            anchor = {m: tensors.get(f"anchor/{m}", carried[m][0]) for m in matrices}
            gates = {m: {name: g[c] for name, g in weight_gates[m].items()} for m in matrices}
            mine = {name: g[c] for name, g in bias_gates.items()}
            tokens = window.extend(past, window.piece(k[c], v[c], mine, gates))
            past = window.last(tokens, variant.algorithm.window_length - 1)
            decay = {m: _decay(gates[m], length) for m in matrices} if variant.decays_first else {}
            u, h = writes(
                variant,
                {m: retention.expose(a) for m, a in anchor.items()},
                tokens["keys"],
                tokens["values"],
                window.bias_gates_of(tokens, call) if past else mine,
                decay,
            )
            chunk: dict[str, Contracted | Unrolled] = {}
            for m in matrices:
                scaled = _scaled(variant, u[m], h[m], gates[m])
                if contracts[m]:
                    chunk[m] = contract(carried[m], scaled, h[m], gates[m]["step"], seen[m][c])
                else:
                    weight = window.importance_of(tokens, call, m)
                    chunk[m] = unroll(variant, carried[m], scaled, h[m], weight, gates[m], length)
            outputs.append(_memory(variant).apply({m: chunk[m].read for m in matrices}, q[c]))
            tensors = {
                f"{slot}/{m}": z
                for m in matrices
                for slot, z in zip(slots, chunk[m].end(), strict=True)
            }
            if (offset := (offset + length) % variant.anchor_every) != 0:
                for m, a in anchor.items():
                    tensors[f"anchor/{m}"] = decay[m][:, :, -1] * a if decay else a
    kept = {f"{WINDOW}{name}": x for name, x in past.items()}
    state = State(tensors | kept, call.state.position + call.tokens)
    return torch.cat(outputs, dim=2), state


def writes(
    variant: Variant,
    anchor: Mapping[str, Tensor],
    k: Tensor,
    v: Tensor,
    gates: Gates,
    decay: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The factors of each token's gradient, u `[B, H, C, out]` and h `[B, H, C, in]` by matrix.

    The gradient of the bias at token i with respect to matrix W is u_i h_i^T: h is what enters
    the map, and u what comes back to a zero tap on what leaves it. One backward pass through the
    memory at the weights `anchor` serves the whole chunk, k `[B, H, C, K]` and v `[B, H, C, V]`.
    With `decay`, `[B, H, C, 1 or out, 1 or in]`, token i sees the anchor decayed up to it.
    """

    def recall(taps: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = {}

        def tapped(m: str, x: Tensor) -> Tensor:
            h[m] = x
            if m not in decay:
                return x @ anchor[m].mT + taps[m]
            if decay[m].shape[-1] > 1 and decay[m].shape[-2] > 1:
                decayed = decay[m] * anchor[m][:, :, None]
                return (decayed @ x[..., None])[..., 0] + taps[m]
            if decay[m].shape[-1] > 1:
                return (decay[m][..., 0, :] * x) @ anchor[m].mT + taps[m]
            return decay[m][..., 0] * (x @ anchor[m].mT) + taps[m]

        return _memory(variant).apply({m: partial(tapped, m) for m in anchor}, k), h

    taps = {m: k.new_zeros(*k.shape[:-1], w.shape[-2]) for m, w in anchor.items()}
    recalled, backward, *(h,) = vjp(recall, taps, has_aux=True)
    (u,) = backward(variant.written.gradient(recalled, v, gates))
    return u, h


@dataclass(frozen=True)
class Contracted:
    """One matrix during one chunk: the carried tensors, the writes, and who sees what of them."""

    carried: list[Tensor]
    """n tensors `[B, H, out, in]`, the weights first."""
    u: Tensor
    """`[B, H, C, out]`; one of u and h has the step in it."""
    h: Tensor
    """`[B, H, C, in]`"""
    coefficients: Coefficients

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[B, H, C, in]`, giving `[B, H, C, out]`."""
        c = self.coefficients
        carry = list(zip(c.read_carry.unbind(-2), self.carried, strict=True))
        if c.columns:
            kept = sum((a * x) @ z.mT for a, z in carry)
            seen = c.read_write * self.h[..., None, :, :]  # [B, H, C, C, in]
            return kept - (seen @ x[..., None])[..., 0] @ self.u
        kept = sum(a * (x @ z.mT) for a, z in carry)
        overlap = x @ self.h.mT
        if c.read_write.shape[-1] == 1:
            return kept - (c.read_write[..., 0] * overlap) @ self.u
        seen = c.read_write * self.u[..., None, :, :]  # [B, H, C, C, out]
        return kept - (overlap[..., None, :] @ seen)[..., 0, :]

    def end(self) -> list[Tensor]:
        """The carried tensors after the last token."""
        c = self.coefficients
        side = -2 if c.columns else -1
        return [
            sum(a.unsqueeze(side) * z for a, z in zip(carry.unbind(-2), self.carried, strict=True))
            - (self.u.mT @ (write * self.h) if c.columns else (write * self.u).mT @ self.h)
            for carry, write in zip(c.end_carry.unbind(-3), c.end_write.unbind(-3), strict=True)
        ]


def contract(
    carried: list[Tensor], u: Tensor, h: Tensor, step: Tensor, coefficients: Coefficients
) -> Contracted:
    """The chunk of a linear algorithm under a linear gate."""
    if step.dim() == 0:
        return Contracted(carried, step * u, h, coefficients)
    if step.shape[-1] > 1:
        return Contracted(carried, u, step[..., 0, :] * h, coefficients)
    return Contracted(carried, step[..., 0] * u, h, coefficients)


@dataclass(frozen=True)
class Unrolled:
    """One matrix during one chunk, formed at every token."""

    weights: Tensor
    """`[B, H, C, out, in]`"""
    slots: list[Tensor]

    def read(self, x: Tensor) -> Tensor:
        """W_t x_t for each token t: x `[B, H, C, in]`, giving `[B, H, C, out]`."""
        return (self.weights @ x[..., None])[..., 0]

    def end(self) -> list[Tensor]:
        """The carried tensors after the last token."""
        return self.slots


def unroll(
    variant: Variant,
    slots: list[Tensor],
    u: Tensor,
    h: Tensor,
    weight: Tensor | float,
    gates: Gates,
    length: int,
) -> Unrolled:
    """The last `length` tokens of u `[B, H, n, out]` and h `[B, H, n, in]`, one after another."""
    algorithm, retention = variant.algorithm, variant.retention
    gradient = weight * u[..., None] * h[..., None, :]
    if algorithm.window_length > 1:
        gradient = _summed(gradient, algorithm.window_length, length)
    by_token = {name: _each(g, length) for name, g in gates.items()}
    entered = h[:, :, h.shape[2] - length :, None, :].unbind(2)
    formed = []
    for t, g in enumerate(gradient.unbind(2)):
        now = {name: columns[t] for name, columns in by_token.items()}
        state, *others = algorithm.advance(slots, g, entered[t], now[RETAIN], now)
        slots = [retention.settle(state, now), *others]
        formed.append(retention.expose(algorithm.expose(slots, now)))
    return Unrolled(torch.stack(formed, dim=2), slots)


def _summed(x: Tensor, count: int, length: int) -> Tensor:
    """For each of the last `length` tokens of dimension 2, the sum of the last `count` up to it."""
    missing = length + count - 1 - x.shape[2]
    padded = torch.cat([x.new_zeros(*x.shape[:2], missing, *x.shape[3:]), x], dim=2)
    return sum(padded[:, :, i : i + length] for i in range(1, count)) + padded[:, :, :length]


def _contracts(variant: Variant, gates: Gates) -> bool:
    """Whether a matrix has causal coefficients: they are of rows or of columns, not both."""
    linear = variant.algorithm.linear and variant.retention.linear
    rows = any(g.dim() and g.shape[-2] > 1 for g in gates.values())
    columns = any(g.dim() and g.shape[-1] > 1 for g in gates.values())
    return linear and variant.algorithm.window_length == 1 and not (rows and columns)


def _scaled(variant: Variant, u: Tensor, h: Tensor, gates: Gates) -> Tensor:
    """u with the algorithm's factor on each write."""
    squared = u.square().sum(-1, keepdim=True) * h.square().sum(-1, keepdim=True)
    factor = variant.algorithm.scale(squared[..., None], h[..., None, :], gates)
    return factor[..., 0] * u if isinstance(factor, torch.Tensor) else factor * u


def _decay(gates: Gates, length: int) -> Tensor:
    """The product of the retention factors up to each token, `[B, H, C, ...]`."""
    retain = gates[RETAIN]
    if retain.dim() == 0:
        retain = retain.expand(1, 1, length, 1, 1)
    return retain.cumprod(2)


def _coefficients(variant: Variant, gates: Gates, tokens: Tensor, count: int) -> list[Coefficients]:
    """The coefficients of each of `count` chunks, for gates `[B, H, count, C, *, *]`."""
    columns = any(g.dim() and g.shape[-1] > 1 for g in gates.values())
    flat = {name: g.squeeze(-2 if columns else -1) if g.dim() else g for name, g in gates.items()}
    update = variant.algorithm.transition(flat[RETAIN], flat)
    whole = multiply_out(update, tokens)
    fields = (whole.read_carry, whole.read_write, whole.end_carry, whole.end_write)
    chunks = zip(*(_each(x, count) for x in fields), strict=True)
    return [Coefficients(*parts, columns=columns) for parts in chunks]


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

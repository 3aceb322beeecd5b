"""How much each token of a call changes the memory, and how badly the memory knew it."""

from __future__ import annotations

import operator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from miras_search.lower.call import RETAIN, Call, Gates, State
from miras_search.lower.frozen import frozen
from miras_search.lower.reference import inner_gradient, reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from miras_search.variant import Variant


TOGETHER = 32
"""Writes that are looked at together, each with the memory before and after it."""


@torch.no_grad()
def surprise(call: Call) -> dict[str, Tensor]:
    """ "loss", "gradient" and "write" of each write, `[B, H, T]` each: see `layer.surprise`."""
    writes, found = _one_by_one(call), []
    while some := [*islice(writes, TOGETHER)]:
        joined = _of_writes(call, pytree.tree_map(_join, *some))
        found.append({name: x.unflatten(0, (len(some), -1)) for name, x in joined.items()})
    return {name: torch.cat([x[name] for x in found]).permute(1, 2, 0) for name in found[0]}


@torch.no_grad()
def norm(variant: Variant, state: State) -> Tensor | None:
    """Of the memory that a state stands for, all its matrices together, `[B, H]`; None if it is
    not made of matrices, or of more than a state (the damping of `newton`)."""
    if variant.memory.grows or variant.algorithm.accumulates:
        return None
    first = f"{variant.algorithm.slots[0]}/"
    held = [x for name, x in state.tensors.items() if name.startswith(first)]
    return _norm([variant.retention.expose(x) for x in held])


def _one_by_one(call: Call) -> Iterator[dict[str, Any]]:
    """Of each write its key, value and gates, and the tensors of the state before and after it."""
    state = call.state
    for t in range(call.tokens):

        def at(gates: Gates, t: int = t) -> Gates:
            return {n: g.narrow(2, t, 1) if g.dim() else g for n, g in gates.items()}

        now = replace(
            call,
            q=call.q.narrow(2, t, 1),
            k=call.k.narrow(2, t, 1),
            v=call.v.narrow(2, t, 1),
            bias_gates=at(call.bias_gates),
            weight_gates={m: at(gates) for m, gates in call.weight_gates.items()},
            state=state,
        )
        _, state = reference(now)
        yield {
            "k": now.k,
            "v": now.v,
            "bias_gates": now.bias_gates,
            "weight_gates": now.weight_gates,
            "before": _held(call, now.state),
            "after": _held(call, state),
        }


def _held(call: Call, state: State) -> dict[str, Tensor]:
    """The tensors of a memory, all of them at any place of a chunk, and no window."""
    slots, tensors = call.variant.algorithm.slots, state.tensors
    held = {f"{slot}/{m}": tensors[f"{slot}/{m}"] for slot in slots for m in call.weight_gates}
    anchors = {f"anchor/{m}": held[f"{slots[0]}/{m}"] for m in call.weight_gates}
    return held | {name: tensors.get(name, x) for name, x in anchors.items()}


def _join(*parts: Tensor) -> Tensor:
    """One write after another as one of more samples; a scalar is the same for all."""
    return torch.cat(parts) if parts[0].dim() else parts[0]


def _of_writes(call: Call, x: dict[str, Any]) -> dict[str, Tensor]:
    """Of one write in each sample, `[B, H]` each."""
    variant, k, v, before = call.variant, x["k"], x["v"], x["before"]
    bias_gates = {n: g[:, :, 0] if g.dim() else g for n, g in x["bias_gates"].items()}
    state = State(before)
    recalled = frozen(replace(call, q=k, v=v, weight_gates=x["weight_gates"], state=state))
    anchor, moved = {}, []
    for m, gates in x["weight_gates"].items():
        held = before[f"anchor/{m}"]
        if variant.decays_first:
            retain = gates[RETAIN]
            held = (retain[:, :, 0] if retain.dim() else retain) * held
        anchor[m] = variant.retention.expose(held)
        moved.append(operator.sub(*(_memory(variant, x[w], m, gates) for w in ("after", "before"))))
    gradient, _ = inner_gradient(variant, anchor, k[:, :, 0], v[:, :, 0], bias_gates)
    return {
        "loss": variant.bias.loss(recalled[:, :, 0], v[:, :, 0], bias_gates),
        "gradient": _norm([gradient[m] for m in anchor]),
        "write": _norm(moved),
    }


def _memory(variant: Variant, held: dict[str, Tensor], matrix: str, gates: Gates) -> Tensor:
    """W, `[B, H, out, in]`: what its columns are read at, each alone."""
    slots = [held[f"{slot}/{matrix}"][:, :, None] for slot in variant.algorithm.slots]
    weights = variant.retention.expose(slots[0])
    columns = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return (
        variant.algorithm.probe(columns.expand(*weights.shape[:2], -1, -1), slots, gates)
        @ weights[:, :, 0].mT
    ).mT


def _norm(matrices: list[Tensor]) -> Tensor:
    """Of all entries of matrices `[B, H, out, in]` together, `[B, H]`."""
    return torch.cat([x.flatten(2) for x in matrices], dim=2).norm(dim=2)

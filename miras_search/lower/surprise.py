"""How much each token of a call changes the memory, and how badly the memory knew it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from miras_search.lower.call import RETAIN, Call, Gates
from miras_search.lower.frozen import frozen
from miras_search.lower.reference import inner_gradient, reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from miras_search.lower.call import State
    from miras_search.variant import Variant


@torch.no_grad()
def surprise(call: Call) -> dict[str, Tensor]:
    """ "loss", "gradient" and "write" of each write, `[B, H, T]` each: see `layer.surprise`."""
    found = [_of_one(now, after) for now, after in _one_by_one(call)]
    return {name: torch.stack([one[name] for one in found], dim=2) for name in found[0]}


@torch.no_grad()
def norm(variant: Variant, state: State) -> Tensor | None:
    """Of the memory that a state stands for, all its matrices together, `[B, H]`; None if it is
    not made of matrices."""
    if variant.memory.grows:
        return None
    first = f"{variant.algorithm.slots[0]}/"
    held = [x for name, x in state.tensors.items() if name.startswith(first)]
    return _norm([variant.retention.expose(x) for x in held])


def _one_by_one(call: Call) -> Iterator[tuple[Call, State]]:
    """Calls of one write each, and the state after each."""
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
        yield now, state


def _of_one(call: Call, after: State) -> dict[str, Tensor]:
    """Of one write, `[B, H]` each."""
    variant, before, matrices = call.variant, call.state.tensors, list(call.weight_gates)
    k, v = call.k[:, :, 0], call.v[:, :, 0]
    bias_gates = {n: g[:, :, 0] if g.dim() else g for n, g in call.bias_gates.items()}
    recalled = frozen(replace(call, q=call.k))[:, :, 0]
    first, anchor, moved = variant.algorithm.slots[0], {}, []
    for m in matrices:
        state = f"{first}/{m}"
        held = before.get(f"anchor/{m}", before[state])
        if variant.decays_first:
            retain = call.weight_gates[m][RETAIN]
            held = (retain[:, :, 0] if retain.dim() else retain) * held
        anchor[m] = variant.retention.expose(held)
        shown = variant.retention.expose(torch.stack([before[state], after.tensors[state]]))
        moved.append(shown[1] - shown[0])
    gradient, _ = inner_gradient(variant, anchor, k, v, bias_gates)
    return {
        "loss": variant.bias.loss(recalled, v, bias_gates),
        "gradient": _norm([gradient[m] for m in matrices]),
        "write": _norm(moved),
    }


def _norm(matrices: list[Tensor]) -> Tensor:
    """Of all entries of matrices `[B, H, out, in]` together, `[B, H]`."""
    return torch.cat([x.flatten(2) for x in matrices], dim=2).norm(dim=2)

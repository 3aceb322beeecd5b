"""Reading a memory that is not written: every query meets the same weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.lower.call import Call


def frozen(call: Call) -> Tensor:
    """What the memory of the call's state recalls at each query, `[B, H, T, V]`; of a memory that
    keeps pairs and has none, zero. Keys and values are not looked at."""
    memory, tensors = call.variant.memory, call.state.tensors
    if isinstance(memory, GrowingMemory):
        if not tensors or not tensors["keys"].shape[2]:
            return call.v.new_zeros(*call.q.shape[:-1], call.v.shape[-1])
        return memory.recall(call.q, tensors["keys"], tensors["values"])
    assert isinstance(memory, ParametricMemory)
    return memory.apply({m: partial(_through, call, m) for m in call.weight_gates}, call.q)


def _through(call: Call, matrix: str, x: Tensor) -> Tensor:
    """W x for x `[B, H, T, in]`, giving `[B, H, T, out]`."""
    algorithm = call.variant.algorithm
    slots = [call.state.tensors[f"{slot}/{matrix}"] for slot in algorithm.slots]
    weights = call.variant.retention.expose(slots[0])
    every = [slot[:, :, None].expand(-1, -1, x.shape[2], -1, -1) for slot in slots]
    return algorithm.probe(x, every, call.weight_gates[matrix]) @ weights.mT

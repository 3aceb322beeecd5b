"""Linear variants as calls of the kernels of flash-linear-attention, where those are installed.

A retention below `SMALLEST` is raised to it, since the kernels take logarithms. Everything else is
the function of `linear`: the kernels take errors at the decayed memory, and an error at the memory
before it, W = a W - e (W k - v) k^T, is one at a W with the step e / a and the value a v.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version

from miras_search.lower.call import RETAIN, Call, State
from miras_search.memory.base import ParametricMemory

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-6
"""Retention."""
WIDEST_KEY = 256
"""What the kernels of the delta rule take."""


@dataclass(frozen=True)
class KernelCall:
    """A function of `fla.ops`, and what it is given: tokens before heads, and the state
    `[B, H, K, V]`."""

    kernel: str
    arguments: dict[str, Any]


def usable(call: Call) -> bool:
    """Whether there are kernels and a device for them, and one of them computes this call."""
    taken = call.q.dtype == torch.float32 and call.q.shape[-1] <= WIDEST_KEY
    return call.q.is_cuda and taken and _installed(call.q.device) and planned(call) is not None


def run(call: Call) -> tuple[Tensor, State]:
    """Outputs `[B, H, T, V]` and the state after the last token, of a call that is `usable`."""
    import fla.ops  # pyright: ignore[reportMissingImports]

    found = planned(call)
    assert found is not None
    given = {
        name: _Once.apply(x) if isinstance(x, torch.Tensor) else x
        for name, x in found.arguments.items()
    }
    return finished(call, *getattr(fla.ops, found.kernel)(**given))


def planned(call: Call) -> KernelCall | None:
    """The kernel for a call, if there is one."""
    variant, algorithm = call.variant, call.variant.algorithm
    memory, bias = variant.memory, variant.written
    if not isinstance(memory, ParametricMemory) or not variant.affine:
        return None
    [(matrix, gates)] = call.weight_gates.items()
    if [*algorithm.transition(1.0, gates).inject] != [1.0]:
        return None
    q, k, v, retain = call.q, call.k, call.v, gates[RETAIN]
    step = gates["step"] * algorithm.scale(k.new_zeros(()), k[..., None, :], gates)
    step, retain = (x.expand(*k.shape[:3], *x.shape[-2:] or (1, 1)) for x in (step, retain))
    if retain.shape[-2] > 1:
        return None  # rows that decay each in its own way
    retain = retain[..., 0, :].clamp(min=SMALLEST)
    log = retain.log()
    one = retain.shape[-1] == 1
    state = call.state.tensors[f"{algorithm.slots[0]}/{matrix}"].mT
    arguments = {"scale": 1.0, "initial_state": state, "output_final_state": True}
    if not bias.uses_prediction:
        u = bias.gradient(torch.zeros_like(v), v, call.bias_gates)
        if step.shape[-1] > 1:
            k = step[..., 0, :] * k
        else:
            u = step[..., 0] * u
        v, kernel = -u, "chunk_simple_gla" if one else "chunk_gla"
    elif step.shape[-2:] != (1, 1):
        return None  # errors and writes of different rows or columns
    else:
        beta = step[..., 0]
        if not variant.decays_first:
            if not one:
                return None  # decays that differ cannot be moved to the value
            beta, v = beta / retain, retain * v
        arguments["beta"] = beta[..., 0].transpose(1, 2)
        kernel = "chunk_gated_delta_rule" if one else "chunk_kda"
    arguments["g"] = (log[..., 0] if one else log).transpose(1, 2)
    arguments |= {name: x.transpose(1, 2) for name, x in (("q", q), ("k", k), ("v", v))}
    return KernelCall(kernel, arguments)


def finished(call: Call, y: Tensor, state: Tensor) -> tuple[Tensor, State]:
    """What a lowering returns, of what a kernel returns."""
    (matrix,), slot = call.weight_gates, call.variant.algorithm.slots[0]
    held = {f"{slot}/{matrix}": state.mT}
    return y.transpose(1, 2), State(held, call.state.position + call.tokens)


class _Once(torch.autograd.Function):
    """The tensor itself. Kernels differentiate by kernels, of which autograd sees nothing: their
    second derivatives would silently be zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            told = "kernels of flash-linear-attention have no second derivatives"
            raise RuntimeError(f"{told}: expected lowering='chunked'")
        return g


@cache
def _installed(device: torch.device) -> bool:
    return find_spec("fla") is not None and _right(torch.cuda.get_device_capability(device))


def _right(capability: tuple[int, int]) -> bool:
    """Whether Triton compiles the kernels rightly: on Hopper some versions compute wrong gradients
    of those with gates (issue 640 of flash-linear-attention), which refuse to run there."""
    if capability[0] != 9 or torch.version.hip is not None:
        return True
    return not Version("3.4") <= Version(version("triton")) < Version("3.7.1")

"""The sequence mixer: projections, short convolution and gates around one memory layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from miras_search.layer import Lowering, memorize
from miras_search.lower.call import State
from miras_search.memory.base import ParametricMemory
from miras_search.nn.gates import Gates

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.variant import Variant


@dataclass(frozen=True)
class MixerState:
    """What a mixer carries from one call to the next."""

    conv: Tensor
    """The last inputs of the convolution, `[B, 3 D, kernel - 1]`."""
    memory: State

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.conv.nbytes + self.memory.nbytes


class Mixer(nn.Module):
    """q, k, v: linear, causal depthwise convolution, SiLU, normalised q and k per head; then the
    memory; then RMSNorm per head, a SiLU gate and a linear map (Titans 2501.00663, section 4.4).
    """

    def __init__(self, variant: Variant, width: int, lowering: Lowering = "auto") -> None:
        super().__init__()
        if width % variant.heads:
            raise ValueError(f"width {width} is not divisible by {variant.heads} heads")
        self.variant = variant.canonical
        self.lowering: Lowering = lowering
        heads, head_width = variant.heads, width // variant.heads
        if problem := variant.memory.check(head_width, head_width):
            raise ValueError(problem)
        memory = self.variant.memory
        matrices, std = {}, {}
        if isinstance(memory, ParametricMemory):
            matrices = memory.matrices(head_width, head_width)
            std = memory.initial_std(head_width, head_width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv: nn.Conv1d | None = None
        if variant.conv:
            self.conv = nn.Conv1d(3 * width, 3 * width, variant.conv, groups=3 * width, bias=False)
        self.gates = Gates(self.variant, width, head_width, matrices)
        self.initial = nn.ParameterDict()
        if variant.initial_memory == "learned":
            for name, (out, n) in matrices.items():
                self.initial[name] = nn.Parameter(torch.randn(heads, out, n) * std[name])
        self.norm = nn.RMSNorm(head_width)
        self.output_gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token."""
        kernel = max(self.variant.conv, 1)
        qkv = self.qkv(x).mT
        past = qkv.new_zeros(*qkv.shape[:2], kernel - 1) if state is None else state.conv
        padded = torch.cat([past, qkv], dim=-1)
        if self.conv is not None:
            qkv = self.conv(padded)
        q, k, v = functional.silu(qkv).mT.unflatten(-1, (3, self.variant.heads, -1)).unbind(-3)
        y, memory = memorize(
            self.variant,
            self._normalise(q),
            self._normalise(k),
            v,
            self.gates(x),
            dict(self.initial),
            None if state is None else state.memory,
            self.lowering,
        )
        y = self.norm(y).flatten(-2) * functional.silu(self.output_gate(x))
        return self.output(y), MixerState(padded[..., padded.shape[-1] - kernel + 1 :], memory)

    def _normalise(self, x: Tensor) -> Tensor:
        norm = self.variant.qk_norm
        match self.variant.memory.preferred_qk_norm if norm == "auto" else norm:
            case "l2":
                return functional.normalize(x, dim=-1, eps=1e-6)
            case "rms":
                return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            case _:
                return x

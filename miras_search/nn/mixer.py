"""The sequence mixer: projections, short convolution and gates around one memory layer."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from miras_search.layer import Lowering, memorize
from miras_search.lower.call import State
from miras_search.lower.contract import TILE
from miras_search.memory.base import ParametricMemory
from miras_search.nn.features import PolynomialFeatures, feature_width
from miras_search.nn.gates import Gates

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.variant import Variant


ENTRIES = 2**22
"""Of queries, keys and values that are computed together on the CPU: glibc gives back to the system
what has more than 32 MB, and to have it again costs a page fault for each 4 KB."""


@dataclass(frozen=True)
class MixerState:
    """What a mixer carries from one call to the next."""

    conv: Tensor
    """The last inputs of the convolution, `[B, parts D, kernel - 1]`, parts being 3 for one write a
    token."""
    memory: State

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.conv.nbytes + self.memory.nbytes


class Mixer(nn.Module):
    """q, k, v: linear, causal depthwise convolution, SiLU, normalised q and k per head, polynomial
    features of both if the degree is above 1; then the memory; then RMSNorm per head, a SiLU gate
    and a linear map (Titans 2501.00663, section 4.4).
    """

    def __init__(self, variant: Variant, width: int, lowering: Lowering = "auto") -> None:
        super().__init__()
        if width % variant.heads:
            raise ValueError(f"width {width} is not divisible by {variant.heads} heads")
        self.variant = variant.canonical
        self.lowering: Lowering = lowering
        heads, head_width = variant.heads, width // variant.heads
        key_width = feature_width(head_width, variant.degree)
        if problem := variant.memory.check(key_width, head_width):
            raise ValueError(problem)
        memory = self.variant.memory
        matrices, std = {}, {}
        if isinstance(memory, ParametricMemory):
            matrices = memory.matrices(key_width, head_width)
            std = memory.initial_std(key_width, head_width)
        # A query, and a key and a value for each write.
        self.parts = 1 + 2 * self.variant.algorithm.writes
        self.qkv = nn.Linear(width, self.parts * width, bias=False)
        self.conv: nn.Conv1d | None = None
        if variant.conv:
            channels = self.parts * width
            self.conv = nn.Conv1d(channels, channels, variant.conv, groups=channels, bias=False)
        self.features: PolynomialFeatures | None = None
        if variant.degree > 1:
            self.features = PolynomialFeatures(heads, head_width, variant.degree)
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
        outputs = []
        for piece in x.split(self._piece(x), dim=1) if x.shape[1] else (x,):
            y, state = self._mix(piece, state)
            outputs.append(y)
        assert state is not None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state

    def _piece(self, x: Tensor) -> int:
        """Tokens to read at a time: any split is the same function."""
        batch, tokens, width = x.shape
        if x.device.type != "cpu" or self.variant.memory.grows:
            return tokens
        whole = math.lcm(TILE, self.variant.chunk)
        return max(1, ENTRIES // max(1, batch * self.parts * width) // whole) * whole

    def _mix(self, x: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """One piece."""
        kernel = max(self.variant.conv, 1)
        qkv = self.qkv(x).mT
        past = qkv.new_zeros(*qkv.shape[:2], kernel - 1) if state is None else state.conv
        if past.shape != (*qkv.shape[:2], kernel - 1):
            expected = (*qkv.shape[:2], kernel - 1)
            raise ValueError(f"state holds conv {tuple(past.shape)}: expected {expected}")
        padded = torch.cat([past, qkv], dim=-1)
        if self.conv is not None:
            qkv = self.conv(padded)
        # The convolution left channels outermost; kernels want them innermost.
        qkv = functional.silu(qkv.mT.contiguous())
        parts = qkv.unflatten(-1, (self.parts, self.variant.heads, -1))
        q, k, v = parts.split([1, self.parts // 2, self.parts // 2], dim=2)
        gates = self.gates(x)
        # A memory that is updated is held in full precision; one that grows is read as it comes.
        held = q.dtype if self.variant.memory.grows else self.norm.weight.dtype
        with _no_autocast(x.device.type):
            y, memory = memorize(
                self.variant,
                self._keys(q.flatten(1, 2).to(held)),
                self._keys(k.flatten(1, 2).to(held)),
                v.flatten(1, 2).to(held),
                {name: gate.to(held) for name, gate in gates.items()},
                {name: self.variant.retention.feasible(w) for name, w in self.initial.items()},
                None if state is None else state.memory,
                self.lowering,
            )
        y = self.norm(y.to(self.norm.weight.dtype)).flatten(-2)
        y = self.output(y * functional.silu(self.output_gate(x)))
        # A copy: a view would hold all that was read.
        return y, MixerState(padded[..., padded.shape[-1] - kernel + 1 :].clone(), memory)

    def _keys(self, x: Tensor) -> Tensor:
        """Normalised keys or queries; features of them are normalised again."""
        x = self._normalise(x)
        return x if self.features is None else self._normalise(self.features(x))

    def _normalise(self, x: Tensor) -> Tensor:
        norm = self.variant.qk_norm
        match self.variant.memory.preferred_qk_norm if norm == "auto" else norm:
            case "l2":
                return functional.normalize(x, dim=-1, eps=1e-6)
            case "rms":
                return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            case _:
                return x


def _no_autocast(device: str) -> AbstractContextManager:
    """Operations keep the dtype of what they are given; the meta device knows nothing else."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()

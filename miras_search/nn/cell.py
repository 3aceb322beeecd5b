"""A memory with what stands directly around it: gates, initial weights, normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from miras_search.layer import Lowering, memorize, recall, surprise
from miras_search.lower.function import no_autocast
from miras_search.memory.base import ParametricMemory
from miras_search.nn.features import PolynomialFeatures, feature_width
from miras_search.nn.gates import Gates
from miras_search.nn.rotary import rotate

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.lower.call import State
    from miras_search.variant import Variant


class Cell(nn.Module):
    """One memory for each head: queries and keys are normalised, also behind polynomial features,
    and may be turned by their place; gates are projected from tokens; W_0 is learned; what is
    recalled goes through an RMSNorm."""

    def __init__(self, variant: Variant, width: int, lowering: Lowering = "auto") -> None:
        super().__init__()
        if width % variant.heads:
            raise ValueError(f"width {width} is not divisible by {variant.heads} heads")
        self.variant = variant.canonical
        self.lowering: Lowering = lowering
        heads, self.head_width = variant.heads, width // variant.heads
        key_width = feature_width(self.head_width, variant.degree)
        if problem := variant.memory.check(key_width, self.head_width):
            raise ValueError(problem)
        memory = self.variant.memory
        matrices, std = {}, {}
        if isinstance(memory, ParametricMemory):
            matrices = memory.matrices(key_width, self.head_width)
            std = memory.initial_std(key_width, self.head_width)
        self.features: PolynomialFeatures | None = None
        if variant.degree > 1:
            self.features = PolynomialFeatures(heads, self.head_width, variant.degree)
        self.gates = Gates(self.variant, width, self.head_width, matrices)
        self.initial = nn.ParameterDict()
        if variant.initial_memory == "learned":
            for name, (out, n) in matrices.items():
                self.initial[name] = nn.Parameter(torch.randn(heads, out, n) * std[name])
        self.norm = nn.RMSNorm(self.head_width)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Write, then read: q, k and v `[B, T, H, D/H]`, with n of k and v for each q where the
        algorithm writes n times, and x `[B, T, D]`, which gates are projected from. What is
        recalled `[B, T, H, D/H]`, and the state after the last token.
        """
        place = self._place(state)
        y, after = memorize(
            self.variant,
            self._keys(q, place),
            self._keys(k, place, self.variant.algorithm.writes),
            v.to(self._held(v)),
            self._gates(x),
            self._start(),
            state,
            self.lowering,
        )
        return self._out(y), after

    def recall(self, q: Tensor, x: Tensor, state: State | None = None, past: int = 0) -> Tensor:
        """Read alone, all at the memory of the state, since which `past` tokens have been read: q
        `[B, T, H, D/H]` to `[B, T, H, D/H]`."""
        keys, gates = self._keys(q, self._place(state) + past), self._gates(x)
        return self._out(recall(self.variant, keys, self.head_width, gates, self._start(), state))

    @torch.no_grad()
    def surprise(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, state: State | None = None
    ) -> dict[str, Tensor]:
        """How surprising each token is to the memory, `[B, T, H]`: see `layer.surprise`. The
        arguments are those of a call."""
        keys = self._keys(k, self._place(state), self.variant.algorithm.writes)
        values, gates = v.to(self._held(v)), self._gates(x)
        return surprise(self.variant, keys, values, gates, self._start(), state)

    def _held(self, x: Tensor) -> torch.dtype:
        """A memory that is updated is held in full precision; one that grows, as it comes."""
        full = torch.promote_types(self.norm.weight.dtype, torch.float32)
        return x.dtype if self.variant.memory.grows else full

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        return {name: gate.to(self._held(x)) for name, gate in self.gates(x).items()}

    def _start(self) -> dict[str, Tensor]:
        """W_0."""
        feasible = self.variant.retention.feasible
        return {name: feasible(w.to(self._held(w))) for name, w in self.initial.items()}

    def _out(self, y: Tensor) -> Tensor:
        return self.norm(y.to(self.norm.weight.dtype))

    def _place(self, state: State | None) -> int:
        """That of the next token: how many the memory has read."""
        return 0 if state is None else state.position // self.variant.algorithm.writes

    def _keys(self, x: Tensor, place: int, each: int = 1) -> Tensor:
        """Keys or queries, `each` of them for a token, the first of which stands at `place`:
        normalised, turned if their positions are rotary; features are normalised again."""
        with no_autocast(x.device.type):
            x = self._normalise(x.to(self._held(x)))
            if self.variant.positions == "rotary":
                tokens = x.unflatten(1, (x.shape[1] // each, each))
                x = rotate(tokens, place, dim=1).flatten(1, 2)
            return x if self.features is None else self._normalise(self.features(x))

    def _normalise(self, x: Tensor) -> Tensor:
        norm = self.variant.qk_norm
        match self.variant.memory.preferred_qk_norm if norm == "auto" else norm:
            case "l2":
                # What functional.normalize does, but for a division whose gradient is three.
                length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
                return x * length.clamp(min=1e-6).reciprocal()
            case "rms":
                return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            case _:
                return x

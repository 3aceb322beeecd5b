"""Coefficients from tokens: the projections a variant's components declare."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.component import Coefficient
    from miras_search.variant import Variant


class Gate(nn.Module):
    """One coefficient for each head, or for each of `channels` in each head.

    A sigmoid between the ends of its range (a softplus above `low` if it has no upper end),
    at `initial` for a zero projection. Per channel the projection has low rank (MIRAS: 32 or 64).

    Rounding would reach the ends, where a threshold of 0 divides by zero and a retention of 1
    never forgets: the value is kept inside.
    """

    def __init__(
        self,
        coefficient: Coefficient,
        width: int,
        heads: int,
        channels: int,
        rank: int,
        writes: int = 1,
    ) -> None:
        super().__init__()
        self.coefficient, self.writes = coefficient, writes
        # A retention gate acts at the first write of a token alone.
        self.idle = 0 if coefficient.neutral is None else writes - 1
        wide = coefficient.per != "head"
        self.shape = (writes - self.idle, heads, channels) if wide else (writes - self.idle, heads)
        outputs = math.prod(self.shape)
        self.bias = nn.Parameter(torch.full((outputs,), _logit(coefficient)))
        self.projection: nn.Module | None = None
        if coefficient.source == "data" and wide:
            rank = min(rank, width)
            self.projection = nn.Sequential(
                nn.Linear(width, rank, bias=False), nn.Linear(rank, outputs, bias=False)
            )
        elif coefficient.source == "data":
            self.projection = nn.Linear(width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, D]` to `[B, T, H]` or `[B, T, H, channels]`, in natural units; with several
        writes a token there are as many in place of each."""
        logit = self.bias.expand(*x.shape[:-1], -1)
        if self.projection is not None:
            logit = logit + self.projection(x)
        # A retention of 0.999 is 1 in half precision.
        logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
        low, high = self.coefficient.low, self.coefficient.high
        smallest = torch.finfo(logit.dtype).eps
        if math.isinf(high):
            value = low + functional.softplus(logit).clamp(min=smallest)
        else:
            value = low + (high - low) * logit.sigmoid().clamp(smallest, 1 - smallest)
        value = value.unflatten(-1, self.shape)
        if self.idle:
            idle = torch.full_like(value, self.coefficient.neutral or 0.0)
            value = torch.cat([value, *[idle] * self.idle], dim=2)
        return value.flatten(1, 2)


class Gates(nn.Module):
    """All coefficients a variant does not fix itself, as `memorize` wants them.

    Per-channel coefficients of the weights are own to each memory matrix.
    """

    def __init__(
        self, variant: Variant, width: int, value_width: int, matrices: dict[str, tuple[int, int]]
    ) -> None:
        super().__init__()
        gates: dict[str, Gate] = {}
        for c in variant.coefficients():
            if c.fixed:
                continue
            channels = {c.name: value_width}
            if c.acts_on == "weights" and c.per != "head":
                side = 0 if c.per == "channel" else 1
                channels = {f"{c.name}.{m}": shape[side] for m, shape in matrices.items()}
            for name, count in channels.items():
                gates[name] = Gate(
                    c, width, variant.heads, count, variant.gate_rank, variant.algorithm.writes
                )
        self.coefficients = {c.name: c for c in variant.coefficients()}
        self.names = list(gates)
        self.gates = nn.ModuleList(gates.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x `[B, T, D]` to gates by name."""
        values = {name: gate(x) for name, gate in zip(self.names, self.gates, strict=True)}
        return {name: self._between(name, g, values) for name, g in values.items()}

    def _between(self, name: str, value: Tensor, values: dict[str, Tensor]) -> Tensor:
        """A coefficient in what other ones leave of its interval."""
        kind, dot, matrix = name.partition(".")
        own = self.coefficients[kind]

        def other(c: str) -> Tensor | float:
            found = values.get(c + dot + matrix, values.get(c))
            return float(self.coefficients[c].source) if found is None else found

        return own.among(value, other)


def _logit(c: Coefficient) -> float:
    """The number that the squashing function takes to the initial value."""
    if math.isinf(c.high):
        return math.log(math.expm1(c.initial - c.low))
    share = (c.initial - c.low) / (c.high - c.low)
    return math.log(share / (1 - share))

"""Seeded inputs for any variant, and one call of `memorize` with everything that comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from miras_search.layer import Lowering, memorize
from miras_search.lower.call import State
from miras_search.memory.base import ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from miras_search.component import Coefficient
    from miras_search.variant import Variant


GENTLE = 0.3
"""Steps are this part of what a gate may project: with larger ones deep memories turn chaotic
over a hundred tokens, and rounding errors grow to the size of the values."""


ROUNDINGS = 1000
"""A call of some hundred tokens has more roundings than this, which may add up."""


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call of `memorize`."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: dict[str, Tensor]
    weights: dict[str, Tensor] | None

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every tensor changed, in the order of `tensors`."""
        return self.map_tokens(change)._with_weights(change)

    def map_tokens(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every tensor with a batch and a token dimension changed, the weights left."""
        q, k, v = change(self.q), change(self.k), change(self.v)
        return Inputs(q, k, v, {name: change(g) for name, g in self.gates.items()}, self.weights)

    def mixed(self, other: Inputs, cut: int) -> Inputs:
        """These tokens up to `cut`, and then those of another."""
        pairs = zip(self.sequences(), other.sequences(), strict=True)
        joined = iter(
            [torch.cat([self.tokens(x, 0, cut), other.tokens(y, cut)], dim=1) for x, y in pairs]
        )
        return self.map_tokens(lambda _: next(joined))

    def _with_weights(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        weights = self.weights and {name: change(w) for name, w in self.weights.items()}
        return Inputs(self.q, self.k, self.v, self.gates, weights)

    def sequences(self) -> list[Tensor]:
        """Every tensor with a batch and a token dimension."""
        return [self.q, self.k, self.v, *self.gates.values()]

    def tokens(self, x: Tensor, start: int, end: int | None = None) -> Tensor:
        """A view of some tokens of one of `sequences`, which may have several writes for each."""
        writes = x.shape[1] // self.q.shape[1]
        return x[:, start * writes : None if end is None else end * writes]

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        named = {"q": self.q, "k": self.k, "v": self.v, **self.gates}
        return named | {f"weights of {name}": w for name, w in (self.weights or {}).items()}


@dataclass(frozen=True)
class Outputs:
    """What one call gives: outputs, state, and gradients of a fixed projection of both."""

    y: Tensor
    state: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        gradients = {f"gradient of {name}": g for name, g in self.gradients.items()}
        return {"y": self.y} | self.state | gradients


def make_inputs(
    variant: Variant,
    tokens: int,
    *,
    batch: int = 2,
    heads: int = 2,
    key_width: int = 4,
    value_width: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    """Random inputs of order 1: unit keys, values shorter than 1, gates spread over their range.

    Per-channel coefficients of the weights are own to each matrix, the others shared.
    """
    rng = torch.Generator().manual_seed(seed)
    value_width = value_width or key_width
    lead = (batch, tokens * variant.algorithm.writes, heads)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=rng, dtype=torch.float64), dim=-1)

    shapes: dict[str, tuple[int, int]] = {}
    std: dict[str, float] = {}
    if isinstance(variant.memory, ParametricMemory):
        shapes = variant.memory.matrices(key_width, value_width)
        std = variant.memory.initial_std(key_width, value_width)
    gates: dict[str, Tensor] = {}
    for c in variant.coefficients():
        if c.fixed:
            continue
        own = {c.name: (value_width,)} if c.per == "channel" else {c.name: ()}
        if c.per != "head" and c.acts_on == "weights":
            side = 0 if c.per == "channel" else 1
            own = {f"{c.name}.{matrix}": (shape[side],) for matrix, shape in shapes.items()}
        for name, channels in own.items():
            share = torch.rand(*lead, *channels, generator=rng, dtype=torch.float64)
            gates[name] = _within(c, share) * (GENTLE if c.name == "step" else 1)
    q = unit(batch, tokens, heads, key_width)
    k, v = unit(*lead, key_width), 0.9 * unit(*lead, value_width)
    weights = {
        name: variant.retention.feasible(
            torch.randn(heads, *shape, generator=rng, dtype=torch.float64) * std[name]
        )
        for name, shape in shapes.items()
    }
    return Inputs(q, k, v, gates, weights).map(lambda x: x.to(dtype))


def _within(c: Coefficient, share: Tensor) -> Tensor:
    """Shares in 0..1 as values on both sides of the coefficient's initial value.

    A retention gate is near its neutral value: something is left after hundreds of tokens.
    """
    if c.neutral is not None:
        return c.neutral + (c.initial - c.neutral) * 2 * share
    if math.isinf(c.high):
        return c.low + (c.initial - c.low) * (0.25 + 1.25 * share)
    at = (c.initial - c.low) / (c.high - c.low)
    return c.low + (c.high - c.low) * at * (0.25 + share * (0.75 + (1 - at) / 2))


def run(
    variant: Variant,
    inputs: Inputs,
    lowering: Lowering = "auto",
    *,
    splits: tuple[int, ...] = (),
    lowerings: tuple[Lowering, ...] = (),
    gradients: bool = False,
    function: Callable[..., Any] = memorize,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Outputs:
    """One call of `memorize` (or of a function like it), or several that split the tokens.

    Args:
        variant: what is computed.
        inputs: the tensors.
        lowering: of every piece.
        splits: tokens at which a new call begins.
        lowerings: of each piece in turn, again from the first when they run out.
        gradients: also differentiate a fixed random projection of outputs and final state with
            respect to every input.
        function: what to call; `memorize` unless given.
        between: changes every tensor of the state from one piece to the next.
    """
    if gradients:
        inputs = inputs.map(lambda x: x.detach().clone().requires_grad_())
    state: State | None = None
    pieces = []
    for i, piece in enumerate(_pieces(inputs, splits)):
        how = lowerings[i % len(lowerings)] if lowerings else lowering
        y, state = function(
            variant, piece.q, piece.k, piece.v, piece.gates, piece.weights, state, how
        )
        pieces.append(y)
        assert state is not None
        if between is not None:
            state = State({name: between(x) for name, x in state.tensors.items()}, state.position)
    assert state is not None
    outputs = Outputs(torch.cat(pieces, dim=1), dict(state.tensors))
    return with_gradients(outputs, inputs) if gradients else outputs


def with_gradients(outputs: Outputs, inputs: Inputs) -> Outputs:
    """Outputs together with the gradients of a fixed projection of them; zero where unused."""
    rng = torch.Generator().manual_seed(7)
    total = sum(
        (x * torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.dtype)).sum()
        for x in (outputs.y, *(outputs.state[name] for name in sorted(outputs.state)))
    )
    named = inputs.tensors()
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(
        total, list(named.values()), allow_unused=True, materialize_grads=True
    )
    detached = {name: x.detach() for name, x in outputs.state.items()}
    return Outputs(outputs.y.detach(), detached, dict(zip(named, found, strict=True)))


def _pieces(inputs: Inputs, splits: tuple[int, ...]) -> Iterator[Inputs]:
    ends = (*splits, inputs.q.shape[1])
    for start, end in zip((0, *splits), ends, strict=True):
        yield inputs.map_tokens(lambda x, start=start, end=end: inputs.tokens(x, start, end))


def assert_equal(
    actual: Outputs,
    expected: Outputs,
    what: str,
    tolerance: float = 1e-9,
    slack: Mapping[str, float] | None = None,
) -> None:
    """Every tensor of both is `close`; some may be `slack` further apart."""
    one, two = actual.tensors(), expected.tensors()
    assert set(one) == set(two), f"{what}: {sorted(one)} against {sorted(two)}"
    for name in one:
        close(one[name], two[name], f"{what}: {name}", tolerance, (slack or {}).get(name, 0.0))


def assert_same(
    variant: Variant, inputs: Inputs, actual: Outputs, expected: Outputs, what: str
) -> None:
    """Both are equal up to what rounding alone does to this variant at these inputs.

    Deep memories can be so steep that the last digit of a key decides the sixth of a gradient: only
    where plain equality fails is that measured.
    """
    try:
        assert_equal(actual, expected, what)
    except AssertionError:
        derive = bool(expected.gradients)
        slack = rounding(variant, inputs, torch.finfo(torch.float64).eps, gradients=derive)
        assert_equal(actual, expected, what, slack=slack)


def rounding(variant: Variant, inputs: Inputs, digit: float, gradients: bool) -> dict[str, float]:
    """How far apart two right answers may be, by the names of `Outputs.tensors`.

    `ROUNDINGS` times the largest change that the reference makes when every input, and the state
    after every token, is changed by about one part in 1 / `digit`.
    """
    rng = torch.Generator().manual_seed(11)

    def nudge(x: Tensor) -> Tensor:
        # Relative to the largest entry, as the error of a sum is: zeros are not spared.
        size = x.detach().abs().max() if x.numel() else 0.0
        return x + digit * size * torch.randn(x.shape, generator=rng, dtype=x.dtype)

    every = tuple(range(1, inputs.q.shape[1]))
    exact = run(variant, inputs, "reference", gradients=gradients).tensors()
    moved = dict.fromkeys(exact, 0.0)
    for _ in range(3):
        nudged = inputs.map(nudge)
        other = run(
            variant, nudged, "reference", splits=every, gradients=gradients, between=nudge
        ).tensors()
        for name, x in exact.items():
            if x.numel():
                moved[name] = max(moved[name], (other[name] - x).abs().max().item())
    return {name: ROUNDINGS * change for name, change in moved.items()}


def close(
    actual: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9, slack: float = 0.0
) -> None:
    """Finite and equal to `tolerance`, relative to the largest entry (or to 1, if that is more).

    Entry by entry would be wrong for gradients: what is left of large terms that cancel has the
    rounding error of the terms.
    """
    assert actual.isfinite().all(), f"{what} is not finite"
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=0,
        atol=tolerance * scale + slack,
        msg=lambda m: f"{what}: {m}",
    )


def numerical(function: Callable[..., Tensor], values: list[Tensor], eps: float) -> bool:
    """Whether the gradients of a function in float64 are differences over steps of `eps`."""
    return torch.autograd.gradcheck(
        function, values, fast_mode=True, eps=eps, raise_exception=False
    )

"""The conformance suites of a retention gate and of a memory algorithm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.component import Coefficient
from miras_search.testing.component import check_coefficients, check_component
from miras_search.testing.inputs import close

if TYPE_CHECKING:
    from miras_search.algorithm.base import Algorithm, Transition
    from miras_search.retention.base import Retention

CHUNKS = (1, 4, 64)
OUT, IN = 5, 4
"""The matrix that a gate or an algorithm is tried on, for `LEAD` of them."""
LEAD = (2, 3)
STEP = Coefficient(name="step", source="data", low=0, high=1, initial=0.5)
"""The step that a retention gate may read."""


def check_retention(retention: Retention) -> None:
    """Factors that are finite and not above 1, a map with an inverse, facts that are measured."""
    check_component(retention)
    wanted = retention.coefficients()
    check_coefficients(wanted)
    for c in wanted:
        assert c.neutral is not None, f"{retention}: {c.name} has no neutral value"
    tried = [_values((*wanted, STEP), seed) for seed in range(4)]
    factors = [f(gates) for gates in tried for f in (retention.retain, retention.write)]
    for factor in map(torch.as_tensor, factors):
        assert factor.isfinite().all(), f"{retention}: a factor is not finite"
        assert (factor.abs() <= 1).all(), f"{retention}: a factor grows the memory"
    idle = {c.name: torch.full((), c.neutral or 0.0).double() for c in wanted} | {
        "step": torch.full((), 0.5).double()
    }
    for factor in (retention.retain(idle), retention.write(idle)):
        assert (torch.as_tensor(factor) == 1).all(), f"{retention}: its neutral values decay"
    _check_map(retention, tried)
    longer = [gates | {"step": gates["step"] / 2} for gates in tried]
    uses_step = any(
        not torch.equal(torch.as_tensor(retention.retain(a)), torch.as_tensor(retention.retain(b)))
        for a, b in zip(tried, longer, strict=True)
    )
    free = any(c.source == 0 for c in wanted)  # a penalty of zero leaves the step alone
    assert uses_step == retention.uses_step or free, (
        f"{retention}: what is kept depends on the step is {uses_step}, uses_step is "
        f"{retention.uses_step}"
    )
    everything = retention.linear and all((torch.as_tensor(f) == 1).all() for f in factors)
    fixed = all(c.fixed for c in wanted)
    assert everything == retention.keeps_everything or (everything and fixed and wanted), (
        f"{retention}: keeps everything is {everything}, keeps_everything is "
        f"{retention.keeps_everything}"
    )


def _check_map(retention: Retention, tried: list[dict[str, Tensor]]) -> None:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(2, *LEAD, OUT, IN, generator=rng, dtype=torch.float64).unbind()
    settles = all(torch.equal(retention.settle(a, g), a) for a in states for g in tried)
    assert settles != retention.proximal, (
        f"{retention}: settle leaves states as they are is {settles}, proximal is "
        f"{retention.proximal}"
    )
    same = settles and all(torch.equal(retention.expose(a), a) for a in states)
    if retention.linear:
        assert same, f"{retention} is declared linear, and shows another memory than it keeps"
    for state in states:
        weights = retention.feasible(state)
        assert weights.shape == state.shape
        once = retention.expose(retention.start(weights))
        assert once.isfinite().all(), f"{retention}: the memory that `start` leads to is not finite"
        again = retention.expose(retention.start(once))
        close(again, once, f"{retention}: expose(start(W))")
        shown = retention.expose(torch.zeros_like(state))
        assert shown.isfinite().all(), f"{retention}: a state of zero shows what is not finite"
    columns = [retention.expose(a[..., :1]) for a in states]
    constant = torch.equal(*columns)
    assert constant == retention.mixes_rows, (
        f"{retention}: rows of one entry are constant is {constant}, mixes_rows is "
        f"{retention.mixes_rows}"
    )


def check_algorithm(algorithm: Algorithm) -> None:
    """An update of as many tensors as it has slots, whose step and coefficients are in range."""
    check_component(algorithm)
    assert algorithm.slots, f"{algorithm} carries nothing"
    assert len(set(algorithm.slots)) == len(algorithm.slots), f"{algorithm}: two slots share a name"
    assert set(algorithm.shapes(OUT, IN)) == set(algorithm.slots), (
        f"{algorithm}: shapes names {set(algorithm.shapes(OUT, IN))}, slots {set(algorithm.slots)}"
    )
    assert algorithm.shapes(OUT, IN)[algorithm.slots[0]] == (OUT, IN)
    for chunk in CHUNKS:
        wanted = algorithm.coefficients(chunk)
        check_coefficients(wanted)
        step = next((c for c in wanted if c.name == "step"), None)
        assert step is not None, f"{algorithm} has no step"
        if algorithm.max_step is not None:
            assert step.high == algorithm.max_step, f"{algorithm}: max_step is not the upper end"
        for seed in range(2):
            if algorithm.linear:
                _check_transition(algorithm, wanted, seed)
            _check_advance(algorithm, wanted, seed)


def _check_transition(algorithm: Algorithm, wanted: tuple[Coefficient, ...], seed: int) -> None:
    n, gates = len(algorithm.slots), _values(wanted, seed)
    update = algorithm.transition(0.5, gates)
    sizes = [len(update.carry), len(update.inject), *(len(row) for row in update.carry)]
    assert sizes == [n] * (n + 2), f"{algorithm}: {n} slots, but a transition of {sizes}"
    assert all(row[0] is None for row in update.carry[1:]), (
        f"{algorithm}: a slot but the state looks at the state: expected carry[i][0] None for i > 0"
    )
    for entry in _entries(update):
        value = torch.as_tensor(entry)
        assert value.isfinite().all(), f"{algorithm}: an entry is not finite"
        assert value.shape in {(), *((*LEAD, *side) for side in SIDES.values())}, (
            f"{algorithm}: an entry has shape {tuple(value.shape)}"
        )


def _check_advance(algorithm: Algorithm, wanted: tuple[Coefficient, ...], seed: int) -> None:
    rng, gates = torch.Generator().manual_seed(seed), _values(wanted, seed)
    shapes = algorithm.shapes(OUT, IN)
    old = [
        torch.randn(*LEAD, *shapes[slot], generator=rng, dtype=torch.float64).square()
        for slot in algorithm.slots
    ]
    h = torch.randn(*LEAD, 1, IN, generator=rng, dtype=torch.float64)
    u = torch.randn(*LEAD, OUT, 1, generator=rng, dtype=torch.float64)
    factor = torch.as_tensor(
        algorithm.scale(torch.linalg.matrix_norm(u * h)[..., None, None], h, gates)
    )
    assert factor.isfinite().all(), f"{algorithm}: the factor on a write is not finite"
    assert (factor > 0).all(), f"{algorithm}: the factor on a write is not positive"
    keeps, decays = (
        algorithm.advance(old, u * h, h, torch.tensor(retain).double(), gates)
        for retain in (1.0, 0.5)
    )
    for slot, z in zip(algorithm.slots, keeps, strict=True):
        assert z.shape == (*LEAD, *shapes[slot]), f"{algorithm}: {slot} becomes {tuple(z.shape)}"
        assert z.isfinite().all(), f"{algorithm}: {slot} is not finite"
    assert not torch.equal(keeps[0], decays[0]), f"{algorithm}: the retention gate has no effect"
    written = algorithm.advance(old, 2 * u * h, h, torch.tensor(1.0).double(), gates)
    assert not torch.equal(keeps[0], written[0]), f"{algorithm}: the gradient has no effect"


def _entries(update: Transition) -> list[Tensor | float]:
    flat = [entry for row in update.carry for entry in row] + list(update.inject)
    return [0.0 if entry is None else entry for entry in flat]


SIDES = {"head": (1, 1), "channel": (OUT, 1), "input": (1, IN)}


def _values(wanted: tuple[Coefficient, ...], seed: int) -> dict[str, Tensor]:
    """Values in the range of each coefficient, one for each of its side; scalar if fixed."""
    rng = torch.Generator().manual_seed(seed)
    values = {}
    for c in wanted:
        share = torch.rand(*LEAD, *SIDES[c.per], generator=rng, dtype=torch.float64)
        high = 2 * c.initial if math.isinf(c.high) else c.high
        top = c.initial + (min(high, 2 * c.initial) - c.initial) * 0.9
        fixed = not isinstance(c.source, str)
        values[c.name] = torch.tensor(c.source).double() if fixed else c.low + (top - c.low) * share
    return values

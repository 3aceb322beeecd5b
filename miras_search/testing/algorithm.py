"""The conformance suites of a retention gate and of a memory algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.testing.component import check_coefficients, check_component

if TYPE_CHECKING:
    from miras_search.algorithm.base import Algorithm, Transition
    from miras_search.component import Coefficient
    from miras_search.retention.base import Retention

CHUNKS = (1, 4, 64)


def check_retention(retention: Retention) -> None:
    """A factor that is finite, not above 1, and 1 exactly where the gate keeps everything."""
    check_component(retention)
    check_coefficients(retention.coefficients())
    factors = [retention.retain(_values(retention.coefficients(), seed)) for seed in range(4)]
    everything = all(bool((torch.as_tensor(f) == 1).all()) for f in factors)
    settings = retention.coefficients()
    fixed = bool(settings) and all(c.fixed for c in settings)
    assert everything == retention.keeps_everything or (everything and fixed), (
        f"{retention}: keeps everything is {everything}, keeps_everything is "
        f"{retention.keeps_everything}"
    )
    for factor in factors:
        value = torch.as_tensor(factor)
        assert value.isfinite().all(), f"{retention}: the factor is not finite"
        assert (value.abs() <= 1).all(), f"{retention}: the factor grows the memory"


def check_algorithm(algorithm: Algorithm) -> None:
    """A transition as large as its slots, whose step and coefficients are in range."""
    check_component(algorithm)
    assert algorithm.slots, f"{algorithm} carries nothing"
    assert len(set(algorithm.slots)) == len(algorithm.slots), "two slots share a name"
    for chunk in CHUNKS:
        wanted = algorithm.coefficients(chunk)
        check_coefficients(wanted)
        step = next((c for c in wanted if c.name == "step"), None)
        assert step is not None, f"{algorithm} has no step"
        if algorithm.max_step is not None:
            assert step.high == algorithm.max_step, f"{algorithm}: max_step is not the upper end"
        for seed in range(2):
            _check_transition(algorithm, wanted, seed)


def _check_transition(algorithm: Algorithm, wanted: tuple[Coefficient, ...], seed: int) -> None:
    n, gates = len(algorithm.slots), _values(wanted, seed)
    keeps, decays = (algorithm.transition(retain, gates) for retain in (1.0, 0.5))
    for update in (keeps, decays):
        sizes = [len(update.carry), len(update.inject), *(len(row) for row in update.carry)]
        assert sizes == [n] * (n + 2), f"{algorithm}: {n} slots, but a transition of {sizes}"
        for entry in _entries(update):
            value = torch.as_tensor(entry)
            assert value.isfinite().all(), f"{algorithm}: an entry is not finite"
            assert value.shape in {(), (2, 3, 1), (2, 3, 5)}, (
                f"{algorithm}: an entry has shape {tuple(value.shape)}"
            )
    assert keeps.carry[0][0] is not None, f"{algorithm}: the weights are not carried"
    changed = any(
        not torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(_entries(keeps), _entries(decays), strict=True)
    )
    assert changed, f"{algorithm}: the retention gate has no effect"


def _entries(update: Transition) -> list[Tensor | float]:
    flat = [entry for row in update.carry for entry in row] + list(update.inject)
    return [0.0 if entry is None else entry for entry in flat]


def _values(wanted: tuple[Coefficient, ...], seed: int) -> dict[str, Tensor]:
    """Values in the range of each coefficient: `[2, 3, 1]` or `[2, 3, 5]`, scalar if fixed."""
    rng = torch.Generator().manual_seed(seed)
    values = {}
    for c in wanted:
        share = torch.rand(2, 3, 5 if c.per == "channel" else 1, generator=rng)
        top = c.initial + (min(c.high, 2 * c.initial) - c.initial) * 0.9
        moving = c.low + (top - c.low) * share
        values[c.name] = moving if isinstance(c.source, str) else torch.tensor(c.source)
    return values

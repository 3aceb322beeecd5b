"""Quality against cost: which trials nothing beats in both at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord

COSTS = ("state_bytes", "parameters", "flops_per_token", "seconds")
"""Fields of a record of which less is better; `seconds` is measured, the others are known."""


def front(losses: ArrayLike) -> NDArray[np.bool_]:
    """[n], whether nothing is at least as good as a row of losses [n, objectives] in every one and
    better in one; equal rows share their fate, and a row with NaN is on no front."""
    points = np.asarray(losses, dtype=float)
    if not points.size:
        return np.zeros(len(points), dtype=bool)
    known = ~np.isnan(points).any(axis=1)
    beaten = [
        bool(((points[known] <= point).all(axis=1) & (points[known] < point).any(axis=1)).any())
        for point in points
    ]
    return known & ~np.array(beaten, dtype=bool)


def fronts(records: Iterable[TrialRecord], recipe: Recipe) -> dict[int, list[str]]:
    """By its number, the costs for which a completed trial is on the front of score and cost."""
    done = [record for record in records if record.score is not None]
    found: dict[int, list[str]] = {record.number: [] for record in done}
    for cost in COSTS:
        for record, is_on in zip(done, front(losses(done, recipe, ["score", cost])), strict=True):
            if is_on:
                found[record.number].append(cost)
    return found


def losses(
    done: Sequence[TrialRecord], recipe: Recipe, objectives: Sequence[str]
) -> NDArray[np.float64]:
    """[trials, objectives], of completed trials; less is better."""
    sign = -1 if recipe.task.direction == "maximize" else 1

    def loss(record: TrialRecord, name: str) -> float:
        value = getattr(record, name)
        return np.nan if value is None else float(value) * (sign if name == "score" else 1)

    rows = [[loss(record, name) for name in objectives] for record in done]
    return np.array(rows, dtype=float).reshape(len(done), len(objectives))

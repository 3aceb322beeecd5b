"""Quality against cost: which trials nothing beats in both at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord

SCORE = "score"
COSTS = ("state_bytes", "parameters", "flops_per_token", "seconds")
"""Fields of a record of which less is better; `seconds` is measured, the others are known."""
TILT = 0.05
"""What the sum of all weighed losses counts beside the largest (Knowles 2006)."""


def front(losses: ArrayLike) -> NDArray[np.bool_]:
    """[n], whether nothing is at least as good as a row of losses [n, objectives] in every one and
    better in one; equal rows share their fate, and a row with NaN is on no front."""
    points = np.asarray(losses, dtype=float)
    is_on = np.zeros(len(points), dtype=bool)
    if not points.size:
        return is_on
    known = ~np.isnan(points).any(axis=1)
    # In lexical order no row is beaten by a later one.
    rows, of = np.unique(points[known], axis=0, return_inverse=True)
    kept, found = np.zeros(len(rows), dtype=bool), rows[:0]
    for i, row in enumerate(rows):
        if not (found <= row).all(axis=1).any():
            kept[i], found = True, np.vstack([found, row])
    is_on[known] = kept[of.ravel()]
    return is_on


def fronts(records: Iterable[TrialRecord], recipe: Recipe) -> dict[int, list[str]]:
    """By its number, the costs for which a completed trial is on the front of score and cost."""
    done = [record for record in records if record.score is not None]
    found: dict[int, list[str]] = {record.number: [] for record in done}
    for cost in COSTS:
        for record, is_on in zip(done, front(losses(done, recipe, [SCORE, cost])), strict=True):
            if is_on:
                found[record.number].append(cost)
    return found


def leading(losses: ArrayLike, count: int) -> list[int]:
    """The first `count` of the rows of losses [n, objectives]: those of the front, of the front
    without them, and so on; in each of these, and of rows with NaN at the end, in their order."""
    points = np.asarray(losses, dtype=float)
    found: list[int] = []
    left = np.arange(len(points))
    while len(left) and len(found) < count:
        is_on = front(points[left])
        taken = is_on if is_on.any() else ~is_on
        found += left[taken].tolist()
        left = left[~taken]
    return found[:count]


def cost(record: TrialRecord, name: str) -> float | None:
    """What a trial cost, by `COSTS`; of its time what it took beside compiling, which falls to the
    first of the trials that need it."""
    value = getattr(record, name)
    return value - record.compile_seconds if name == "seconds" else value


def weighed(losses: ArrayLike, rng: random.Random) -> NDArray[np.float64]:
    """[n], one number for losses [n, objectives], the more the better, by a random weighing.

    The augmented Chebyshev distance of ParEGO (Knowles 2006) over ranks: whoever is best by a
    weighing is on the front, and each of the front is by some. NaN counts as worst.
    """
    from scipy.stats import rankdata

    points = np.asarray(losses, dtype=float)
    ranks = rankdata(np.where(np.isnan(points), np.inf, points), axis=0)
    drawn = np.array([rng.expovariate(1) for _ in range(points.shape[1])])
    parts = drawn / drawn.sum() * (ranks - 1) / max(1, len(points) - 1)
    return -(parts.max(axis=1) + TILT * parts.sum(axis=1))


def losses(
    done: Sequence[TrialRecord], recipe: Recipe, objectives: Sequence[str]
) -> NDArray[np.float64]:
    """[trials, objectives], of completed trials; less is better."""
    sign = -1 if recipe.task.direction == "maximize" else 1

    def loss(record: TrialRecord, name: str) -> float:
        value = cost(record, name) if name in COSTS else getattr(record, name)
        return np.nan if value is None else float(value) * (sign if name == SCORE else 1)

    rows = [[loss(record, name) for name in objectives] for record in done]
    return np.array(rows, dtype=float).reshape(len(done), len(objectives))

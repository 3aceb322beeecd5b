"""What replays say of a sampler: how soon it finds the best, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from miras_search.benchmark.replay import Outcomes, Replays

TOP = 0.01
"""Share of the variants that count as the best, at least one of them."""
SURE = 0.95
"""Share of the searches that have to find one."""
EARLY = 0.05
"""Share of the points after which samplers are compared with each other."""
UNITS = ("trials", "seconds")
"""What a search spends: trials, of which one that was stopped counts by its steps, and time."""
PLACES = 400
"""On a curve against a cost that is no whole number."""
RESAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Curve:
    """What the average search has after a cost."""

    cost: np.ndarray
    tried: np.ndarray
    """Share of the searches that have trained one of the best variants: trained again with other
    seeds, it would be told from the rest."""
    declared: np.ndarray
    """Share of the searches whose incumbent is one of the best: by one trial of each, what looks
    best need not be."""
    regret: np.ndarray
    """How much better than the incumbent the best point is, by their means over seeds."""
    rank: np.ndarray
    """How many variants are better than the incumbent."""

    def needed(self, found: str, share: float) -> float | None:
        """The least cost at which `share` of the searches have "tried" or "declared" one."""
        sure = getattr(self, found) >= share
        return float(self.cost[sure.argmax()]) if sure.any() else None


def best(outcomes: Outcomes) -> int:
    """How many variants count as the best."""
    return max(1, round(TOP * outcomes.variants))


def curve(outcomes: Outcomes, replays: Replays, unit: str) -> Curve:
    """The average over searches, up to the most that any of them spent in all; one that has spent
    less stays at what it has."""
    if unit == "trials":
        spent = replays.steps / outcomes.steps.max()
        cost = np.arange(1, math.ceil(spent.max()) + 1)
    else:
        end = replays.seconds.max()
        spent, cost = replays.seconds, np.linspace(end / PLACES, end, PLACES)
    # What has finished by then; before the first trial there is none.
    done = np.stack([np.searchsorted(own, cost, side="right") for own in spent])
    last = np.maximum(done - 1, 0)
    nothing = done == 0
    top = outcomes.rank < best(outcomes)
    trained = top[replays.tried] & replays.ended
    met = np.take_along_axis(np.logical_or.accumulate(trained, axis=1), last, axis=1)
    point = np.take_along_axis(replays.incumbent, last, axis=1)
    point[nothing] = outcomes.worth.argmin()
    return Curve(
        cost,
        (met & ~nothing).mean(0),
        top[point].mean(0),
        (outcomes.worth.max() - outcomes.worth[point]).mean(0),
        outcomes.rank[point].mean(0),
    )


def early(outcomes: Outcomes) -> int:
    """Trials after which samplers are compared."""
    return max(1, round(EARLY * len(outcomes.pool)))


def declared(outcomes: Outcomes, replays: Replays) -> np.ndarray:
    """[replays], the point that looks best for the steps of so many whole trials."""
    done = _done_early(outcomes, replays)
    return replays.incumbent[np.arange(len(done)), done - 1]


def crowned(outcomes: Outcomes, replays: Replays, finalists: int) -> np.ndarray | None:
    """[replays], the point that wins the finals after as many steps: the leading variants once
    more on the seeds that the search has not met; None where a point has one seed only."""
    if min(map(len, outcomes.rows)) < 2:
        return None
    score = np.maximum(outcomes.score, outcomes.score[np.isfinite(outcomes.score)].min())
    found = np.where(replays.ended, outcomes.score[replays.rows], -np.inf)
    winners = []
    for r, done in enumerate(_done_early(outcomes, replays)):
        leading: dict[str, int] = {}
        for i in np.argsort(-found[r, :done], kind="stable"):
            leading.setdefault(outcomes.pool.candidates[replays.tried[r, i]].digest, i)
        means: dict[int, float] = {}
        for i in [*leading.values()][:finalists]:
            own = outcomes.rows[replays.tried[r, i]]
            means[replays.tried[r, i]] = score[own[own != replays.rows[r, i]]].mean()
        winners.append(max(means, key=lambda point: means[point]))
    return np.array(winners)


def _done_early(outcomes: Outcomes, replays: Replays) -> np.ndarray:
    """[replays], how many trials have ended by then."""
    return (replays.steps <= early(outcomes) * outcomes.steps.max()).sum(1)


def improvement(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Probability that a search of ours has the better incumbent, ties half, and its 95 % interval.

    Of Agarwal et al. (arXiv 2108.13264): the Mann-Whitney statistic over all pairs of searches,
    the interval by the percentiles of a bootstrap over searches.
    """
    rng = np.random.default_rng(seed)
    values, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    counts = [np.bincount(c, minlength=len(values)) for c in np.split(codes, [len(ours)])]
    drawn = [
        rng.multinomial(n.sum(), n / n.sum(), size=RESAMPLES) if len(values) > 1 else n[None]
        for n in counts
    ]
    low, high = np.quantile(_better(*drawn), [0.025, 0.975])
    return float(_better(*(n[None] for n in counts))[0]), float(low), float(high)


def _better(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[samples], from counts [samples, values] of values in rising order."""
    below = theirs.cumsum(-1) - theirs
    wins = (ours * (below + theirs / 2)).sum(-1)
    return wins / (ours.sum(-1) * theirs.sum(-1))

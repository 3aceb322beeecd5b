"""How often nothing seems to make a difference: `python -m benchmarks.alarms gp random`.

Searches of the recorded table whose scores are replaced by noise, by each of some samplers.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace

import numpy as np

from miras_search.benchmark.replay import Outcomes, search
from miras_search.benchmark.table import Table
from miras_search.report.differences import differences
from miras_search.report.leaderboard import Entry

LIMITS = (0.05, 0.02, 0.01, 0.005)


@dataclass(frozen=True)
class Trial:
    """What `differences` asks of a record."""

    score: float
    lr: float


def smallest(table: Table, outcomes: Outcomes, sampler: str, trials: int, number: int) -> float:
    """The least q-value of a search, 1 if nothing was judged."""
    rng = np.random.default_rng(number)
    noise = rng.normal(size=len(outcomes.score))
    found = outcomes.lookups(rng)
    blind = replace(outcomes, score=noise)
    points, _ = search(blind, sampler, found, trials, random.Random(number))
    candidates = [outcomes.pool.candidates[point] for point in points]
    entries = [
        Entry(candidate.variant, (Trial(float(noise[found[point]]), candidate.lr),))  # pyright: ignore
        for point, candidate in zip(points, candidates, strict=True)
    ]
    told = differences(entries, table.recipe)
    return min((e.q for e in told.judged if e.q is not None), default=1.0) if told else 1.0


def main() -> None:
    """Print, for each sampler, the share of searches that show anything by each limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samplers", nargs="+")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--trials", type=int, default=60)
    asked = parser.parse_args()
    table = Table.load("recall")
    outcomes = Outcomes.of(table)
    for sampler in asked.samplers:
        least = np.array(
            [smallest(table, outcomes, sampler, asked.trials, i) for i in range(asked.searches)]
        )
        told = ", ".join(f"{(least <= limit).mean():.1%} by {limit}" for limit in LIMITS)
        print(f"{sampler}, {asked.searches} searches of {asked.trials} points: {told}", flush=True)


if __name__ == "__main__":
    main()

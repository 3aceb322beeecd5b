"""What a warm start is worth on the recorded table: `python -m benchmarks.warm_start local gp`.

The source of a search is a study of random points with one recorded seed. The search looks its own
trials up among the other seeds, whose means say what a point is worth: the two have no luck in
common. A source that misleads has its scores reversed, one that says nothing has them shuffled.
Each search with a source is held against one without, of the same seed and with the same scores.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from scipy.stats import binomtest

from miras_search import samplers, warm_start
from miras_search.benchmark import verdict
from miras_search.benchmark.replay import Outcomes
from miras_search.benchmark.table import Table
from miras_search.samplers.base import Tried
from miras_search.warm_start import Known, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIALS = 76
"""Of a source and of a search: a quarter of the points."""
AFTER = (5, 15, 30, 76)
"""Trials after which searches are held against each other."""
SEEDS = (0, 1, 2)
SOURCES = ("another seed", "shuffled", "reversed")


def main(words: Sequence[str]) -> None:
    """Print a row for each sampler and source; a number among the words is that of searches."""
    searches = next((int(word) for word in words if word.isdecimal()), 300)
    table = Table.load("recall")
    parts = {seed: _apart(table, seed) for seed in SEEDS}
    best = verdict.best(parts[SEEDS[0]][0])
    print(f"{searches} searches of each kind; the first {best} variants count as the best.")
    print("| sampler | source | " + " | ".join(f"after {n}" for n in AFTER) + " |")
    for name in (word for word in words if not word.isdecimal()):
        cold = None
        for kind in ("none", *SOURCES) if samplers.find(name).learns else ("none",):
            runs = [_search(name, kind, *parts[SEEDS[r % 3]], r) for r in range(searches)]
            cells = []
            for n in AFTER:
                tried = np.mean([run[0][n - 1] for run in runs])
                told = f"{tried:.0%}"
                if cold is not None:
                    gaps = [a[1][n - 1] - b[1][n - 1] for a, b in zip(runs, cold, strict=True)]
                    better, worse = sum(g > 0 for g in gaps), sum(g < 0 for g in gaps)
                    chance = binomtest(better, better + worse).pvalue if better + worse else 1.0
                    told += f", {better}:{worse} (p = {chance:.0e})"
                cells.append(told)
            cold = runs if cold is None else cold
            print(f"| `{name}` | {kind} | " + " | ".join(cells) + " |", flush=True)
    print(
        "Share that tried one of the best; with : without by whose incumbent is better, sign test."
    )


def _apart(table: Table, seed: int) -> tuple[Outcomes, Outcomes]:
    """What other seeds say, and what this one does."""
    trials = table.trials
    others = replace(table, trials=trials.filter(pc.not_equal(trials["seed"], seed)))
    own = replace(table, trials=trials.filter(pc.equal(trials["seed"], seed)))
    return Outcomes.of(others), Outcomes.of(own)


def _search(
    name: str, kind: str, outcomes: Outcomes, recorded: Outcomes, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """[trials] of one search: whether one of the best was tried, and the incumbent's worth."""
    rng = np.random.default_rng(number)
    found = outcomes.lookups(rng)
    sources = [] if kind == "none" else [_source(recorded, kind, rng)]
    leaders = warm_start.leaders(sources, outcomes.pool)
    sampler = samplers.find(name)(outcomes.pool, random.Random(number).getrandbits(32), leaders)
    tried: list[Tried] = []
    for _ in range(TRIALS):
        move = sampler.next(tried)
        assert move is not None
        tried.append(Tried(move.point, float(outcomes.score[found[move.point]]), move.note))
    points = np.array([trial.point for trial in tried])
    scores = [trial.score or -math.inf for trial in tried]
    incumbent = [points[int(np.argmax(scores[: n + 1]))] for n in range(TRIALS)]
    hit = np.logical_or.accumulate(outcomes.rank[points] < verdict.best(outcomes))
    return hit, outcomes.worth[incumbent]


def _source(recorded: Outcomes, kind: str, rng: np.random.Generator) -> Source:
    points = rng.choice(len(recorded.pool), size=TRIALS, replace=False)
    scores = recorded.worth[points]
    if kind == "reversed":
        scores = -scores
    elif kind == "shuffled":
        scores = rng.permutation(scores)
    candidates = [recorded.pool.candidates[point] for point in points]
    trials = tuple(
        Known(variant=c.variant.to_dict(), lr=c.lr, score=float(score))
        for c, score in zip(candidates, scores, strict=True)
    )
    return Source(path="", study="", trials=trials)


if __name__ == "__main__":
    main(sys.argv[1:])

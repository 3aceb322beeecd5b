"""What a warm start is worth on the recorded table: `python -m benchmarks.warm_start local`.

The source of a search is a study of random points with one recorded seed. The search looks its own
trials up among the other seeds, whose means say what a point is worth: the two have no luck in
common. A source that misleads has its scores reversed, one that says nothing has them shuffled.
Each search with a source is held against one without, of the same seed and with the same scores.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

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

Run: TypeAlias = "tuple[np.ndarray, np.ndarray]"
"""[trials] of one search: whether one of the best was tried, and the worth of the incumbent."""
SOURCE = 76
"""Trials of a source: a quarter of the points."""
AFTER = (5, 15, 30, 76)
"""Trials after which searches are held against each other."""
SEEDS = (0, 1, 2)
SOURCES = ("other seed", "shuffled", "reversed")


def main() -> None:
    """Print a row for each sampler and source."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start")
    parser.add_argument("samplers", nargs="+")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--trials", type=int, default=AFTER[-1], help="of each search")
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    options = parser.parse_args()
    table = Table.load("recall")
    parts = {seed: _apart(table, seed) for seed in SEEDS}
    after = [n for n in AFTER if n <= options.trials]
    best = verdict.best(parts[SEEDS[0]][0])
    print(f"{options.searches} searches of each kind; the first {best} variants are the best.")
    print("| sampler | source | " + " | ".join(f"after {n}" for n in after) + " |")
    for name in options.samplers:
        cold = None
        for kind in ("none", *options.sources):
            runs = [
                _search(name, kind, *parts[SEEDS[r % len(SEEDS)]], r, options.trials)
                for r in range(options.searches)
            ]
            cold = runs if cold is None else cold
            cells = [_cell(runs, cold, n - 1) for n in after]
            print(f"| `{name}` | {kind} | " + " | ".join(cells) + " |", flush=True)
    print("tried: share that tried one of the best. better: whose incumbent is, with : without.")
    print("p: of a sign test of the searches that differ, two-sided.")


def _cell(runs: Sequence[Run], cold: Sequence[Run], place: int) -> str:
    told = f"tried {np.mean([run[0][place] for run in runs]):.0%}"
    if runs is cold:
        return told
    pairs = [*zip(runs, cold, strict=True)]
    tried = _sign([int(a[0][place]) - int(b[0][place]) for a, b in pairs])
    better = _sign([a[1][place] - b[1][place] for a, b in pairs])
    return f"{told} (p = {tried[2]:.0e}), better {better[0]}:{better[1]} (p = {better[2]:.0e})"


def _sign(gaps: Sequence[float]) -> tuple[int, int, float]:
    """How many are above and below 0, and how probable so uneven a split of fair coins is."""
    above, below = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    return above, below, binomtest(above, above + below).pvalue if above + below else 1.0


def _apart(table: Table, seed: int) -> tuple[Outcomes, Outcomes]:
    """What other seeds say, and what this one does."""
    trials = table.trials
    others = replace(table, trials=trials.filter(pc.not_equal(trials["seed"], seed)))
    own = replace(table, trials=trials.filter(pc.equal(trials["seed"], seed)))
    return Outcomes.of(others), Outcomes.of(own)


def _search(
    name: str, kind: str, outcomes: Outcomes, recorded: Outcomes, number: int, trials: int
) -> Run:
    rng = np.random.default_rng(number)
    found = outcomes.lookups(rng)
    sources = [] if kind == "none" else [_source(recorded, kind, rng)]
    leaders = warm_start.leaders(sources, outcomes.pool)
    sampler = samplers.find(name)(outcomes.pool, random.Random(number).getrandbits(32), leaders)
    tried: list[Tried] = []
    for _ in range(trials):
        move = sampler.next(tried)
        assert move is not None
        tried.append(Tried(move.point, float(outcomes.score[found[move.point]]), move.note))
    points = np.array([trial.point for trial in tried])
    scores = [trial.score or -math.inf for trial in tried]
    incumbent = [points[int(np.argmax(scores[: n + 1]))] for n in range(trials)]
    hit = np.logical_or.accumulate(outcomes.rank[points] < verdict.best(outcomes))
    return hit, outcomes.worth[incumbent]


def _source(recorded: Outcomes, kind: str, rng: np.random.Generator) -> Source:
    points = rng.choice(len(recorded.pool), size=SOURCE, replace=False)
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
    main()

"""How often nothing seems to be something: `python -m benchmarks.alarms gp random`.

Searches of the recorded table by each of some samplers, where the score of every trial is noise and
every variant is as good as any other: whether something is said to make a difference, and whether
the finals, on new seeds and so on new noise, have a winner.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from miras_search import finals
from miras_search.benchmark.replay import Outcomes, search
from miras_search.benchmark.table import Table
from miras_search.record import TrialRecord
from miras_search.report.differences import differences
from miras_search.report.leaderboard import best_per_variant

if TYPE_CHECKING:
    from miras_search.recipe import Recipe

LIMITS = (0.05, 0.02, 0.01, 0.005)


def blind(
    outcomes: Outcomes, recipe: Recipe, sampler: str, trials: int, number: int
) -> list[TrialRecord]:
    """The records of a search and its finals."""
    rng = np.random.default_rng(number)
    noise = rng.normal(size=len(outcomes.score))
    found = outcomes.lookups(rng)
    nothing = replace(outcomes, score=noise)
    points, _ = search(nothing, sampler, found, trials, random.Random(number))
    records = []
    for i, point in enumerate(points):
        candidate = outcomes.pool.candidates[point]
        record = TrialRecord(
            number=i,
            digest=candidate.digest,
            variant=candidate.variant.to_dict(),
            lr=candidate.lr,
            seed=recipe.seed,
            recipe=recipe.to_dict(),
            state="complete",
            metric=recipe.task.metric,
            score=float(noise[found[point]]),
        )
        records.append(record)
    for i, ((*_, seed), leader) in enumerate(finals.wanted(records, recipe).items(), len(records)):
        new = {"number": i, "seed": seed, "phase": "finals", "score": float(rng.normal())}
        records.append(leader.model_copy(update=new))
    return records


def least(records: list[TrialRecord], recipe: Recipe) -> float:
    """The least q-value of an effect, 1 if nothing was judged."""
    told = differences(best_per_variant(records, recipe), recipe)
    return min((e.q for e in told.judged if e.q is not None), default=1.0) if told else 1.0


def won(records: list[TrialRecord], recipe: Recipe) -> bool:
    """Whether the finals say that there is a winner."""
    outcome = finals.standing(records, recipe)
    assert outcome is not None
    return len(outcome.finalists) > 1 and not outcome.tied


def main() -> None:
    """Print, for each sampler, the share of searches that show an effect by each limit, and that
    of finals with a winner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samplers", nargs="+")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    table = Table.load("recall")
    again = {"finalists": asked.finalists, "seeds": asked.seeds}
    outcomes, recipe = Outcomes.of(table), table.recipe.model_copy(update=again)
    for sampler in asked.samplers:
        every = (blind(outcomes, recipe, sampler, asked.trials, i) for i in range(asked.searches))
        told = [(least(records, recipe), won(records, recipe)) for records in every]
        shares = (f"{np.mean([q <= limit for q, _ in told]):.1%} by {limit}" for limit in LIMITS)
        winners = np.mean([winner for _, winner in told])
        print(
            f"{sampler}, {asked.searches} searches of {asked.trials} points: effects in "
            f"{', '.join(shares)}; a winner in {winners:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()

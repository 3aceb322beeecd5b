"""How often nothing seems to be something: `python -m benchmarks.alarms gp random`.

Searches of the space of the recorded table by each of some samplers, where every variant is as good
as any other, and the score of a trial is noise and what its learning rate is worth: whether
something is said to make a difference, and whether the finals, on new seeds and so on new noise,
have a winner.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import numpy as np

from miras_search import finals
from miras_search.benchmark.replay import Outcomes, search
from miras_search.benchmark.table import Table
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord
from miras_search.report.differences import differences
from miras_search.report.leaderboard import best_per_variant
from miras_search.search.pool import Pool

LIMITS = (0.05, 0.02, 0.01, 0.005)


def points(variants: int, rates: int) -> Outcomes:
    """Some variants of the recorded table at some learning rates, with no score."""
    table = Table.load("recall")
    how = {"lr": [2.0**i * 1e-3 for i in range(rates)]}
    recipe = Recipe.from_dict(table.recipe.to_dict() | how)
    pool = Pool.of(table.space, recipe)
    digests = sorted({candidate.digest for candidate in pool.candidates})
    some = {*random.Random(0).sample(digests, min(variants, len(digests)))}
    pool = Pool.of(table.space, recipe, {c.key for c in pool.candidates if c.digest in some})
    steps = np.zeros(len(pool), dtype=int)
    return replace(Outcomes.of(table), recipe=recipe, pool=pool, steps=steps)


def blind(
    outcomes: Outcomes,
    recipe: Recipe,
    sampler: str,
    trials: int,
    worth: float,
    best: int | None,
    number: int,
) -> list[TrialRecord]:
    """The records of a search and its finals."""
    rng = np.random.default_rng(number)
    rates = [candidate.lr for candidate in outcomes.pool.candidates]
    _, better = np.unique(rates, return_inverse=True)
    each = better if best is None else -((better - best) ** 2)
    score = worth * each + rng.normal(size=len(rates))
    found, made = np.arange(len(score)), replace(outcomes, score=score)
    tried, _ = search(made, sampler, found, trials, random.Random(number))
    records = []
    for i, point in enumerate(tried):
        candidate = outcomes.pool.candidates[point]
        record = TrialRecord(
            number=i,
            digest=candidate.digest,
            variant=candidate.variant.to_dict(),
            lr=candidate.lr,
            seed=recipe.seed,
            recipe=recipe.to_dict() | {"sampler": sampler},
            state="complete",
            metric=recipe.task.metric,
            score=float(score[point]),
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
    parser.add_argument("--variants", type=int, default=302)
    parser.add_argument("--rates", type=int, default=1)
    parser.add_argument("--worth", type=float, default=5.0, help="of a rate, in spreads of noise")
    parser.add_argument("--best", type=int, help="rate from which that falls with the square")
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    again = {"finalists": asked.finalists, "seeds": asked.seeds}
    outcomes = points(asked.variants, asked.rates)
    recipe = outcomes.recipe.model_copy(update=again)
    size = asked.trials, asked.worth, asked.best
    for sampler in asked.samplers:
        every = (blind(outcomes, recipe, sampler, *size, i) for i in range(asked.searches))
        told = [(least(records, recipe), won(records, recipe)) for records in every]
        shares = (f"{np.mean([q <= limit for q, _ in told]):.1%} by {limit}" for limit in LIMITS)
        winners = np.mean([winner for _, winner in told])
        print(
            f"{sampler}, {asked.searches} searches of {asked.trials} of {len(outcomes.pool)} "
            f"points: effects in "
            f"{', '.join(shares)}; a winner in {winners:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()

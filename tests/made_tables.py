"""Tables made up from a formula: what every variant is worth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from miras_search.benchmark.replay import Outcomes
from miras_search.benchmark.table import Table
from miras_search.recipe import Recipe
from miras_search.record import Point, TrialRecord
from miras_search.search.pool import Pool
from miras_search.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = {
    "memory": ["matrix", {"kind": "mlp", "expansion": [1, 2]}, "gated_mlp"],
    "bias": ["l2", "l1", {"kind": "lp", "p": [3, 4]}, {"kind": "huber", "form": "norm"}],
    "retention": ["none", "l2", "lq", "kl"],
    "algorithm": ["gd", "momentum", "muon", "adam"],
    "chunk": 16,
}
"""320 variants."""
RECIPE = {"task": {"kind": "mqar"}, "steps": 100, "lr": 3e-3}


def pool(space: dict = SPACE, **recipe: object) -> Pool:
    return Pool.of(Space.from_dict(space), Recipe.from_dict(RECIPE | recipe))


def outcomes(made: Pool, scores: np.ndarray) -> Outcomes:
    """Of scores [points, seeds], higher is better, -inf where a trial failed.

    Curves are straight lines from 0 to the score.
    """
    points, seeds = scores.shape
    assert points == len(made) == len({c.digest for c in made.candidates})
    finite = np.maximum(scores, scores[np.isfinite(scores)].min())
    worth = finite.mean(1)
    return Outcomes(
        recipe=Recipe.from_dict(RECIPE),
        curves=[
            {step: x * step / 100 for step in range(20, 101, 20)} if np.isfinite(x) else {}
            for x in scores.ravel().tolist()
        ],
        pool=made,
        rows=list(np.arange(scores.size).reshape(points, seeds)),
        score=scores.ravel(),
        seconds=np.ones(scores.size),
        steps=np.full(scores.size, 100),
        worth=worth,
        rank=(worth[None] > worth[:, None]).sum(1),
        variants=points,
    )


def additive(made: Pool, rng: np.random.Generator, noise: float = 0.2) -> np.ndarray:
    """[points, 3 seeds]: effects of axes, smaller ones of pairs of axes, and noise of seeds."""
    forms = made.forms[made.first]
    worth = np.zeros(len(made))
    for i in range(forms.shape[1]):
        worth += rng.normal(size=forms[:, i].max() + 1)[forms[:, i]]
        for j in range(i):
            pair = rng.normal(size=(forms[:, i].max() + 1, forms[:, j].max() + 1))
            worth += 0.3 * pair[forms[:, i], forms[:, j]]
    return worth[:, None] + noise * rng.normal(size=(len(made), 3))


def records(
    made: Pool, recipe: Recipe, score: Callable[[int, int], float | None], seeds: int
) -> list[TrialRecord]:
    """A record of each point for each seed."""
    told = recipe.to_dict()
    return [
        TrialRecord(
            number=point,
            digest=candidate.digest,
            variant=candidate.variant.to_dict(),
            lr=candidate.lr,
            seed=seed,
            recipe=told,
            state="diverged" if score(point, seed) is None else "complete",
            metric="accuracy",
            score=score(point, seed),
            metrics={"test/accuracy": 0.5},
            curve=tuple(
                Point(step=20 * i, seconds=i / 7, train_loss=1 / i, score=0.1 * i)
                for i in range(1, 6)
            ),
            parameters=1000 + point,
            state_bytes=4096,
            flops_per_token=10**6,
            seconds=3.0 + point % 5,
            versions={"torch": "2.13.0"},
        )
        for seed in range(seeds)
        for point, candidate in enumerate(made.candidates)
    ]


def table(score: Callable[[int, int], float | None], seeds: int, **recipe: object) -> Table:
    how = Recipe.from_dict(RECIPE | recipe)
    space = Space.from_dict(SPACE)
    return Table.of_records(space, how, records(Pool.of(space, how), how, score, seeds))


def shuffled(of: Outcomes, rng: np.random.Generator) -> Outcomes:
    """The same values at other points: whatever structure there was is gone."""
    order = rng.permutation(len(of.pool))
    rows = [of.rows[i] for i in order]
    return replace(of, rows=rows, worth=of.worth[order], rank=of.rank[order])

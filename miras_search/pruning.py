"""When a trial is stopped early: an Optuna pruner decides, where scores foretell the end.

A score in the middle of training may say nothing of the last one: recall is learned in jumps, and
until its jump a model that will win looks like one that will not. So the rank correlation of each
evaluation with the final score is measured over the trials that ran to their end, and where it is
low no trial is stopped.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from miras_search import samplers
from miras_search.stats.ranks import LEAST, Correlation, correlation, normal_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from miras_search.recipe import Recipe

Curve: TypeAlias = "tuple[Mapping[int, float], float | None]"
"""Of a trial, its scores by step and its final score."""

NORMAL = NormalDist()

FORETELLS = 0.7
"""Least rank correlation with the final score at which trials are stopped."""
REDUCTION = 3
"""Of `halving` and `hyperband`: one trial in three goes on from a rung to the next, which is three
times as late."""


BEST = 0.2
"""Share of the trials that a trial has to be among, in the end, for `forecast` to let it go on."""
GOOD = NORMAL.inv_cdf(1 - BEST)
"""The place from which on one is among them, as a normal score."""
UNLIKELY = 0.05
"""Probability of it at which a trial is stopped."""

PRUNERS = ("median", "halving", "hyperband", "forecast")
"""What `Recipe.pruner` may be beside "none" and "auto"."""


def pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    """What the recipe asks for."""
    first = math.ceil(recipe.steps / recipe.evaluate)
    match chosen(recipe):
        case "median":
            return Foretelling(optuna.pruners.MedianPruner(n_startup_trials=LEAST))
        case "halving":
            halving = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=first, reduction_factor=REDUCTION
            )
            return Foretelling(halving)
        case "hyperband":
            hyperband = optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=recipe.steps, reduction_factor=REDUCTION
            )
            return Foretelling(hyperband)
        case "forecast":
            return Forecast()
        case _:
            return optuna.pruners.NopPruner()


def chosen(recipe: Recipe) -> str:
    """The pruner by name; what "auto" is for this recipe."""
    if recipe.pruner != "auto":
        return recipe.pruner
    searches = samplers.find(recipe.sampler).learns and len(recipe.objectives) == 1
    return "forecast" if searches else "none"


class Foretelling(optuna.pruners.BasePruner):
    """Another pruner, heard only where the score so far foretells the final one."""

    def __init__(self, inner: optuna.pruners.BasePruner) -> None:
        self.inner = inner

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the trial shall stop at its last step."""
        if not self.inner.prune(study, trial) or trial.last_step is None:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        curves = ((t.intermediate_values, t.value) for t in complete)
        known = rank_correlation(curves, trial.last_step)
        return known is not None and known.value >= FORETELLS


class Forecast(optuna.pruners.BasePruner):
    """Stops a trial that will not end among the best, as far as scores foretell the end.

    A trial's place among all others so far, and its place in the end, are taken to be normal with
    the rank correlation that complete trials show, made that of all: see `of_all`. Who was stopped
    before is behind all that came further.
    """

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the trial shall stop at its last step."""
        step = trial.last_step
        if step is None:
            return False
        complete, pruned = (
            study.get_trials(deepcopy=False, states=[state])
            for state in (TrialState.COMPLETE, TrialState.PRUNED)
        )
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        mine = sign * trial.intermediate_values[step]
        curves = [t.intermediate_values for t in (*complete, *pruned)]
        there = np.array([sign * curve.get(step, -sign * math.inf) for curve in curves])
        there[np.isnan(there)] = -math.inf  # no number is behind all
        behind = float((there < mine).sum() + (there == mine).sum() / 2)
        place = NORMAL.inv_cdf((behind + 0.5) / (len(there) + 1))
        if place >= GOOD:  # at least as likely to end there as any is
            return False
        known = rank_correlation(((t.intermediate_values, t.value) for t in complete), step)
        if known is None:
            return False
        whole = of_all(known.value, there, len(complete))
        share = min(max(whole, 0.0), 1 - 1 / len(complete))
        missing = (GOOD - share * place) / math.sqrt(1 - share**2)
        return 1 - NORMAL.cdf(missing) < UNLIKELY


def of_all(correlation: float, scores: NDArray[np.float64], complete: int) -> float:
    """The correlation of early and final scores over all trials, from that over the complete ones,
    the first of all: who was stopped had low scores, and what was selected by a variable correlates
    less with it (Thorndike 1949, case 2). Scores `[trials]` are early ones, of one step."""
    places = normal_scores(scores)
    wider = places.std() / (places[:complete].std() or math.inf)
    return float(correlation * wider / math.sqrt(1 + correlation**2 * (wider**2 - 1)))


def rank_correlation(trials: Iterable[Curve], step: int) -> Correlation | None:
    """Spearman's rank correlation of the score at a step with the final one; None where fewer than
    `LEAST` trials reached it, or all scores are equal and there is no order."""
    both = [
        (curve[step], final)
        for curve, final in trials
        if final is not None and math.isfinite(curve.get(step, math.nan))
    ]
    return correlation(*zip(*both, strict=True)) if both else None


def rank_correlations(trials: Iterable[Curve]) -> dict[int, Correlation]:
    """The same of each step, where there is one."""
    known = list(trials)
    steps = sorted({step for curve, _ in known for step in curve})
    found = {step: rank_correlation(known, step) for step in steps}
    return {step: one for step, one in found.items() if one is not None}

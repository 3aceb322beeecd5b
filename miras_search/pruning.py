"""When a trial is stopped early: an Optuna pruner decides, where scores foretell the end.

A score in the middle of training may say nothing of the last one: recall is learned in jumps, and
until its jump a model that will win looks like one that will not. So the rank correlation of each
evaluation with the final score is measured over the trials that ran to their end, and where it is
low no trial is stopped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import optuna
from optuna.trial import TrialState

from miras_search.stats.ranks import LEAST, Correlation, correlation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from miras_search.recipe import Recipe

Curve: TypeAlias = "tuple[Mapping[int, float], float | None]"
"""Of a trial, its scores by step and its final score."""

FORETELLS = 0.7
"""Least rank correlation with the final score at which trials are stopped."""
REDUCTION = 3
"""Of `halving` and `hyperband`: one trial in three goes on from a rung to the next, which is three
times as late."""


PRUNERS = ("median", "halving", "hyperband")
"""What `Recipe.pruner` may be beside "none"."""


def pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    """What the recipe asks for."""
    first = math.ceil(recipe.steps / recipe.evaluate)
    match recipe.pruner:
        case "none":
            return optuna.pruners.NopPruner()
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

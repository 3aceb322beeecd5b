"""The tree-structured Parzen estimator of Optuna (Bergstra et al., 2011)."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState, create_trial

from miras_search.samplers.base import Move, Sampler, Tried
from miras_search.search.candidate import OptunaChooser, distribution

if TYPE_CHECKING:
    from miras_search.search.domain import Domain


class Tpe(Sampler):
    """Its proposal, or the nearest point that is feasible and was not tried.

    Optuna's sampler is asked by a study in memory that holds what was tried. A trial that failed
    is one that was pruned at once there, which counts as worse than any score. While several
    trials run, each counts as bad: the others look elsewhere.
    """

    def __init__(self, domain: Domain[Any], seed: int, leaders: Sequence[Any] = ()) -> None:
        super().__init__(domain, seed, leaders)
        self._begin()

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        self._mirror(tried)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=rng.getrandbits(32)
            )
        trial = self._study.ask()
        point = self.domain.snap(OptunaChooser(trial), {trial.point for trial in tried}, rng)
        self._study.tell(trial, state=TrialState.FAIL)  # it stands for no trial of ours
        return None if point is None else Move(point)

    def _begin(self) -> None:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(verbosity)
        self._mirrored: list[Tried] = []

    def _mirror(self, tried: Sequence[Tried]) -> None:
        """Tell the study in memory what it does not know; begin again if it knows otherwise."""
        if self._mirrored != tried[: len(self._mirrored)]:
            self._begin()
        for trial in tried[len(self._mirrored) :]:
            answers = self.domain.candidate(trial.point).answers
            asked = {name: distribution(self.domain.questions[name]) for name in answers}
            self._study.add_trial(
                create_trial(
                    state=_state(trial),
                    params=dict(answers),
                    distributions=asked,
                    value=trial.score if trial.completed else None,
                )
            )
        self._mirrored = list(tried)


def _state(trial: Tried) -> TrialState:
    if trial.score is None:
        return TrialState.RUNNING
    return TrialState.COMPLETE if trial.completed else TrialState.PRUNED

"""What a sampler is: from all that was tried to one point that was not.

    trials so far, a generator of its own -> Move(point, note)

That is all a sampler writes, and it has no memory beside it: a proposal depends on the seed, the
number of the trial and the results so far, so that a study that was killed goes on as it would
have. Points come from a `Domain`, which holds feasible ones only; Optuna never sees another.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import optuna
from optuna.trial import TrialState

from miras_search import pareto
from miras_search.search.candidate import distribution

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from miras_search.search.candidate import Candidate
    from miras_search.search.domain import Domain

SPEC = "spec"
"""Attribute of an Optuna trial that was given out; one without was cut off before."""
COSTS = "costs"
"""Attribute with what a trial cost, by `pareto.COSTS`."""
STOPPED = "stopped"
"""Attribute with the step at which a trial was told to stop."""
NOTE = "note"
"""Attribute with the note of the sampler that proposed a trial."""


class Exhausted(Exception):
    """Every point was given out."""


@dataclass(frozen=True)
class Move:
    """A proposal."""

    point: Any
    note: int = 0
    """What the sampler wants to be told of the trial later."""


@dataclass(frozen=True)
class Tried:
    """A trial that was given out."""

    point: Any
    score: float | None
    """Higher is better, whatever the task says; None while it runs, -inf if it failed, and what it
    was expected to become if it was stopped."""
    note: int = 0
    costs: Mapping[str, float | None] = field(default_factory=dict)
    """By `pareto.COSTS`, of trials that completed."""

    @property
    def completed(self) -> bool:
        """Whether it has a score."""
        return self.score is not None and self.score > -math.inf


class Sampler(optuna.samplers.BaseSampler):
    """Proposes whole points, each feasible and not yet tried; a trial that runs counts as tried.

    The first proposals are the leaders: what earlier studies found to be good, best first. Optuna
    asks for the distributions of a trial and gets those of one point.
    """

    objectives: Sequence[str] = (pareto.SCORE,)
    """What is sought: the best score or, of several, the front. There each proposal is for the best
    by a weighing of its own, so that a sampler knows of one number only."""

    learns: ClassVar[bool] = True
    """Whether results have a part in what is proposed; leaders are ignored where they have none."""

    def __init__(self, domain: Domain[Any], seed: int, leaders: Sequence[Any] = ()) -> None:
        self.domain, self.seed, self.leaders = domain, seed, leaders
        self._found: dict[int, Any] = {}
        self._proposed: Candidate | None = None

    @abstractmethod
    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        """The next point, or None if nothing is left; `tried` is in the order of the trials."""

    def next(self, tried: Sequence[Tried]) -> Move | None:
        """A leader that was not tried, or else `propose` with the generator of this trial."""
        if self.learns and self.leaders:
            points = {trial.point for trial in tried}
            for point in self.leaders:
                if point not in points:
                    return Move(point)
        rng = random.Random(f"{self.seed}/{len(tried)}")
        if len(self.objectives) > 1:
            tried = _weighed(tried, self.objectives, rng)
        return self.propose(tried, rng)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Raises `Exhausted` if nothing is left."""
        move = self.next(self._history(study))
        if move is None:
            raise Exhausted
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, move.note)
        self._proposed = self.domain.candidate(move.point)
        asked = self._proposed.answers
        return {name: distribution(self.domain.questions[name]) for name in asked}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
    ) -> dict[str, Any]:
        assert self._proposed is not None
        return dict(self._proposed.answers)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"{param_name} is no question of the point that was proposed")

    def _history(self, study: optuna.Study) -> list[Tried]:
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        trials, history = study.get_trials(deepcopy=False), []
        gains = Gains(
            (trial.intermediate_values, trial.value)
            for trial in trials
            if trial.state == TrialState.COMPLETE
        )
        for trial in trials:
            if SPEC not in trial.user_attrs:
                continue
            if trial.number not in self._found:
                self._found[trial.number] = self.domain.find(trial.params)
            if self._found[trial.number] is None:  # refused since
                continue
            score = None
            if trial.state.is_finished():
                value = trial.value if trial.state == TrialState.COMPLETE else None
                if trial.state == TrialState.PRUNED and (step := trial.last_step) is not None:
                    value = trial.intermediate_values[step] + gains.since(step)
                score = -math.inf if value is None or math.isnan(value) else sign * value
            note, costs = trial.system_attrs.get(NOTE, 0), trial.user_attrs.get(COSTS, {})
            history.append(Tried(self._found[trial.number], score, note, costs))
        return history


class Gains:
    """What complete trials, pairs of a curve and a score, gained after a step: the last score of a
    trial that was stopped there lacks it beside theirs."""

    def __init__(self, complete: Iterable[tuple[Mapping[int, float], float | None]]) -> None:
        self.complete = [(curve, score) for curve, score in complete if score is not None]
        self._known: dict[int, float] = {}

    def since(self, step: int) -> float:
        """The median of the gains after a step; 0 where there is none."""
        if step not in self._known:
            found = (score - curve[step] for curve, score in self.complete if step in curve)
            known = [gain for gain in found if math.isfinite(gain)]
            self._known[step] = median(known) if known else 0.0
        return self._known[step]


def _weighed(
    tried: Sequence[Tried], objectives: Sequence[str], rng: random.Random
) -> Sequence[Tried]:
    """Trials with one number for all objectives in place of their scores."""
    done = [i for i, trial in enumerate(tried) if trial.completed]
    if not done:
        return tried
    known = [{pareto.SCORE: -(tried[i].score or 0.0), **tried[i].costs} for i in done]
    rows = [[math.nan if (x := own.get(o)) is None else x for o in objectives] for own in known]
    values = dict(zip(done, pareto.weighed(rows, rng).tolist(), strict=True))
    return [replace(trial, score=values.get(i, trial.score)) for i, trial in enumerate(tried)]

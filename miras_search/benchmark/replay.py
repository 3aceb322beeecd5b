"""Searches that look their results up in a table, by the samplers that a study runs."""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import TrialState

from miras_search import pruning, reach, samplers
from miras_search.errors import UserError
from miras_search.recipe import Recipe
from miras_search.samplers.base import Gains, Tried
from miras_search.search.pool import Pool
from miras_search.variant import Variant

if TYPE_CHECKING:
    from miras_search.benchmark.table import Table


@dataclass(frozen=True)
class Outcomes:
    """What is known of every point: its trials by seed, and what it is worth on average.

    A trial that did not complete counts as the worst that completed, in the mean too.
    """

    recipe: Recipe
    pool: Pool
    rows: list[np.ndarray]
    """[points][seeds], places in the arrays of trials below."""
    score: np.ndarray
    """[trials], higher is better; -inf if it did not complete."""
    seconds: np.ndarray
    """[trials]"""
    curves: list[dict[int, float]]
    """[trials], scores by step, higher is better."""
    steps: np.ndarray
    """[trials], where the curve ends."""
    worth: np.ndarray
    """[points], mean score over seeds."""
    rank: np.ndarray
    """[points], how many variants are better at their best learning rate, by the means."""
    variants: int

    @classmethod
    def of(cls, table: Table) -> Outcomes:
        """Arrays of a table.

        Raises:
            UserError: the space has no end, or no trial completed.
        """
        space, recipe, trials = table.space, table.recipe, table.trials
        endless = reach.uncountable(space, recipe) or recipe.lr.continuous("lr")
        if endless:
            raise UserError(f"table of {space.name}: a replay needs a finite space: {endless}")
        try:
            digest = {text: _digest(text) for text in set(trials["variant"].to_pylist())}
        except UserError as error:
            raise UserError(f"table of {space.name}: {p}" for p in error.problems) from None
        keys = zip(trials["variant"].to_pylist(), trials["lr"].to_pylist(), strict=True)
        tried = [(digest[text], lr) for text, lr in keys]
        pool = Pool.of(space, recipe, keep=set(tried))
        rows: list[list[int]] = [[] for _ in pool.candidates]
        numbers = {c.key: i for i, c in enumerate(pool.candidates)}
        for i, key in enumerate(tried):
            if key not in numbers:
                told = f"variant {key[0]} at lr {key[1]:g} is no point of the space"
                raise UserError(f"table of {space.name}: {told}")
            rows[numbers[key]].append(i)
        sign = 1 if recipe.task.direction == "maximize" else -1
        found = trials["score"].to_pylist()
        score = np.array([-math.inf if value is None else sign * value for value in found])
        if not np.isfinite(score).any():
            raise UserError(f"table of {space.name}: no trial completed")
        finite = np.maximum(score, score[np.isfinite(score)].min())
        worth = np.array([finite[own].mean() for own in rows])
        best: dict[str, float] = {}
        for candidate, value in zip(pool.candidates, worth, strict=True):
            best[candidate.digest] = max(value, best.get(candidate.digest, -math.inf))
        ordered = np.sort(list(best.values()))
        drawn = zip(
            trials["curve_step"].to_pylist(), trials["curve_score"].to_pylist(), strict=True
        )
        curves = [{at: sign * x for at, x in zip(*pair, strict=True)} for pair in drawn]
        steps = [max(own, default=0) for own in curves]
        return cls(
            recipe,
            pool,
            [np.array(own) for own in rows],
            score,
            np.array(trials["seconds"].to_pylist()),
            curves,
            np.array(steps),
            worth,
            len(ordered) - np.searchsorted(ordered, worth, side="right"),
            len(ordered),
        )

    def lookups(self, rng: np.random.Generator) -> np.ndarray:
        """[points], a random one of the trials of each."""
        picks = rng.random(len(self.rows))
        return np.array([own[int(p * len(own))] for own, p in zip(self.rows, picks, strict=True)])


@dataclass(frozen=True)
class Replays:
    """Searches by one method. All arrays are [replays, trials], after each trial of each."""

    method: str
    tried: np.ndarray
    """The point of each trial."""
    rows: np.ndarray
    """The trial of the table that it was looked up in."""
    ended: np.ndarray
    """Whether the trial ran to its end."""
    incumbent: np.ndarray
    """The point that the search would declare best."""
    seconds: np.ndarray
    """What was spent so far, of training time and of optimiser steps."""
    steps: np.ndarray
    wall: float
    """Seconds that replaying took."""


def replay(outcomes: Outcomes, method: str, replays: int, trials: int, seed: int) -> Replays:
    """Searches of `trials` trials, one after another; replay r finds the same by every method.

    A method is a sampler, or a sampler and a pruner: "gp" or "gp/halving".
    """
    began = time.monotonic()
    rows = np.empty((replays, trials), dtype=np.int64)
    points, steps = np.empty_like(rows), np.empty_like(rows)
    for r in range(replays):
        found = outcomes.lookups(np.random.default_rng([seed, r]))
        rng = random.Random(f"{seed}/{r}")
        points[r], steps[r] = search(outcomes, method, found, trials, rng)
        rows[r] = found[points[r]]
    ended = steps == outcomes.steps[rows]
    score = np.where(ended, outcomes.score[rows], -math.inf)
    # What a trial takes beside its steps is spread over them.
    share = steps / np.maximum(outcomes.steps[rows], 1)
    return Replays(
        method,
        points,
        rows,
        ended,
        np.take_along_axis(points, _leaders(score), axis=1),
        (outcomes.seconds[rows] * share).cumsum(1),
        steps.cumsum(1),
        time.monotonic() - began,
    )


def search(
    outcomes: Outcomes, method: str, found: np.ndarray, trials: int, rng: random.Random
) -> tuple[list[int], list[int]]:
    """The points that one search tries, in order, and the step at which each trial ends; `found` is
    the trial that each point has."""
    name, _, pruner = method.partition("/")
    sampler = samplers.find(name)(outcomes.pool, rng.getrandbits(32))
    judge = Judge(outcomes, pruner) if pruner else None
    tried: list[Tried] = []
    steps: list[int] = []
    stopped: dict[int, float] = {}
    for number in range(trials):
        gains = Gains(judge.complete if judge else ())
        for i, early in stopped.items():
            tried[i] = replace(tried[i], score=early + gains.since(steps[i]))
        move = sampler.next(tried)
        assert move is not None, "there are as many points as trials"
        row = int(found[move.point])
        step, score = int(outcomes.steps[row]), float(outcomes.score[row])
        if judge is not None and (stop := judge.stop(row)) is not None:
            step, stopped[number] = stop, outcomes.curves[row][stop]
        tried.append(Tried(move.point, score, move.note))
        steps.append(step)
    return [trial.point for trial in tried], steps


class Judge:
    """The pruner of a recipe in an Optuna study of its own, which is told of every trial."""

    def __init__(self, outcomes: Outcomes, pruner: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        recipe = outcomes.recipe.model_copy(update={"pruner": pruner})
        self.outcomes = outcomes
        self.complete: list[tuple[dict[int, float], float]] = []
        """Curves and scores of trials that ran to their end."""
        self.study = optuna.create_study(
            direction="maximize", study_name="replay", pruner=pruning.pruner(recipe)
        )

    def stop(self, row: int) -> int | None:
        """The step at which a trial of the table is stopped, if it is."""
        trial, score = self.study.ask(), self.outcomes.score[row]
        for step, early in self.outcomes.curves[row].items():
            trial.report(early, step)
            if step < self.outcomes.recipe.steps and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return step
        if math.isfinite(score):
            self.study.tell(trial, score)
            self.complete.append((self.outcomes.curves[row], score))
        else:
            self.study.tell(trial, state=TrialState.FAIL)
        return None


def _leaders(score: np.ndarray) -> np.ndarray:
    """[replays, trials], the place of the best score so far; of equal ones the first."""
    best = np.maximum.accumulate(score, axis=1)
    leads = np.zeros(score.shape, dtype=np.int64)
    leads[:, 1:] = np.where(score[:, 1:] > best[:, :-1], np.arange(1, score.shape[1]), 0)
    return np.maximum.accumulate(leads, axis=1)


def _digest(variant: str) -> str:
    return Variant.from_dict(json.loads(variant)).digest

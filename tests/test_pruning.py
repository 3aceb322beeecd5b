"""Trials that are stopped early: by whom, where, and what is kept of them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import pstdev

import numpy as np
import optuna
import pytest
from scipy.stats import norm, spearmanr
from study_files import Silent, write

from miras_search import pruning
from miras_search.executor import local, set_up_ray
from miras_search.pruning import BEST, UNLIKELY, Forecast, rank_correlations
from miras_search.recipe import Recipe, load_pair
from miras_search.record import Point, TrialRecord
from miras_search.stats.ranks import LEAST
from miras_search.study import Study
from miras_search.trial import outcome

STEPS = (10, 30, 90)
"""Evaluations of made-up trials; the first two are rungs."""


def rank(values: list[float], value: float) -> float:
    return sum(x < value for x in values) + (sum(x == value for x in values) + 1) / 2


def test_rank_correlation_is_that_of_the_definition():
    rng = random.Random(0)
    trials = [({1: rng.randrange(5), 2: rng.random()}, float(rng.randrange(4))) for _ in range(30)]
    found = rank_correlations(trials)
    finals = [final for _, final in trials]
    for step in (1, 2):
        early = [curve[step] for curve, _ in trials]
        a = [rank(early, x) - 15.5 for x in early]
        b = [rank(finals, x) - 15.5 for x in finals]
        expected = sum(x * y for x, y in zip(a, b, strict=True))
        expected /= (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        assert found[step].value == pytest.approx(expected, abs=1e-12)
        assert found[step].low < expected < found[step].high
    assert rank_correlations(trials[: LEAST - 1]) == {}
    assert rank_correlations([({1: 0.5}, float(i)) for i in range(LEAST)]) == {}
    assert rank_correlations([({1: float(i)}, -float(i)) for i in range(LEAST)])[1].value == -1.0


def search(pruner: str, curve, direction: str = "maximize") -> list[optuna.trial.FrozenTrial]:
    """A hundred made-up trials under the pruner of a recipe."""
    recipe = Recipe.from_dict({"task": "mqar", "steps": 90, "evaluate": 9, "pruner": pruner})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction=direction, study_name="made-up", pruner=pruning.pruner(recipe)
    )
    rng = random.Random(1)
    for _ in range(100):
        trial, scores = study.ask(), curve(rng)
        for step, score in zip(STEPS, scores, strict=True):
            trial.report(score, step)
            if step < STEPS[-1] and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, scores[-1])
    return study.trials


def steady(rng: random.Random) -> list[float]:
    """Who leads early leads at the end."""
    quality = rng.random()
    return [quality * share + 0.02 * rng.random() for share in (0.2, 0.5, 1.0)]


def jumping(rng: random.Random) -> list[float]:
    """All look alike until some have learned to recall, after the last rung."""
    return [*(0.1 + 0.02 * rng.random() for _ in range(2)), rng.choice([0.1, 1.0])]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "forecast"),
        ({"sampler": "tpe"}, "forecast"),
        ({"sampler": "grid"}, "none"),
        ({"sampler": "random"}, "none"),
        ({"objectives": ["score", "seconds"]}, "none"),
        ({"pruner": "none"}, "none"),
        ({"sampler": "grid", "pruner": "median"}, "median"),
    ],
)
def test_a_search_that_learns_stops_trials(asked, found):
    recipe = Recipe.from_dict({"task": "mqar"} | asked)
    assert pruning.chosen(recipe) == found
    assert (type(pruning.pruner(recipe)) is optuna.pruners.NopPruner) == (found == "none")


@pytest.mark.parametrize("pruner", pruning.PRUNERS)
def test_trials_are_stopped_where_scores_foretell_the_end(pruner):
    trials = search(pruner, steady)
    pruned = [t for t in trials if t.state == optuna.trial.TrialState.PRUNED]
    assert len(pruned) >= 30
    assert pruned[0].number >= LEAST
    # Of what a made-up trial would have reached, the first score tells all but a tenth.
    best = max(t.value for t in trials if t.state == optuna.trial.TrialState.COMPLETE)
    assert all(t.intermediate_values[10] / 0.2 < best + 0.1 for t in pruned)


@pytest.mark.parametrize("pruner", pruning.PRUNERS)
def test_no_trial_is_stopped_before_the_jump(pruner):
    """Seeded: with other seeds a trial was stopped in 2 of 300 searches. A correlation of 0.7 among
    ten pairs without one has odds of 1 in 80, and it is looked at again with every trial."""
    trials = search(pruner, jumping)
    assert not [t for t in trials if t.state == optuna.trial.TrialState.PRUNED]


def test_losses_are_stopped_where_they_are_high():
    def falling(rng: random.Random) -> list[float]:
        return [3 - score for score in steady(rng)]

    trials = search("median", falling, "minimize")
    pruned = [t for t in trials if t.state == optuna.trial.TrialState.PRUNED]
    complete = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(pruned) >= 30
    early = [t.intermediate_values[10] for t in complete]
    assert min(t.intermediate_values[10] for t in pruned) > sorted(early)[len(early) // 4]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_forecast_is_that_of_a_bivariate_normal(direction):
    """By scipy, from ranks that are counted one by one."""
    rng, states = random.Random(3), optuna.trial.TrialState
    sign, stopped = (1 if direction == "maximize" else -1), 0
    for _ in range(100):
        study, noise = optuna.create_study(direction=direction), rng.uniform(0.02, 0.4)
        complete, reached, before = [], [], rng.randrange(5)
        for i in range(rng.randrange(LEAST, 40)):
            early = rng.randrange(8) / 8
            if i >= LEAST and rng.random() < 0.3:
                reached.append(early)
                add(study, states.PRUNED, {10: early})
            else:
                complete.append((early, early + rng.gauss(0, noise)))
                add(study, states.COMPLETE, {10: early, 90: 0.0}, complete[-1][1])
        for _ in range(before):
            add(study, states.PRUNED, {5: 0.5})
        trial = add(study, states.RUNNING, {5: 0.5, 10: rng.randrange(8) / 8})
        there = [sign * x for x in [*reached, *(early for early, _ in complete)]]
        own = rank(there, sign * trial.intermediate_values[10]) - 0.5
        place = norm.ppf((before + own + 0.5) / (before + len(there) + 1))
        alone = spearmanr(*zip(*complete, strict=True))[0]
        everyone = [sign * early for early, _ in complete] + [sign * x for x in reached]
        everyone += [-math.inf] * before
        places = [norm.ppf((rank(everyone, x) - 0.5) / len(everyone)) for x in everyone]
        wider = pstdev(places) / pstdev(places[: len(complete)])
        found = alone * wider / (1 - alone**2 + (alone * wider) ** 2) ** 0.5
        found = min(max(found, 0), 1 - 1 / len(complete))
        likely = norm.sf(norm.ppf(1 - BEST), found * place, (1 - found**2) ** 0.5)
        assert Forecast().prune(study, trial) == (likely < UNLIKELY)
        stopped += likely < UNLIKELY
    assert 20 < stopped < 80


def test_what_is_selected_by_early_scores_tells_the_correlation_of_all():
    """Normal pairs of which the better half by the first ran to their end: 20,000 of them, whose
    correlation has a standard error below 0.01."""
    rng = np.random.default_rng(0)
    for true in (0.3, 0.7, 0.9):
        early, other = rng.normal(size=(2, 20_000))
        final = true * early + math.sqrt(1 - true**2) * other
        order = np.argsort(-early)
        early, final = early[order], final[order]
        half = len(early) // 2
        selected = np.corrcoef(early[:half], final[:half])[0, 1]
        assert selected < true - 0.05
        assert pruning.of_all(selected, early, half) == pytest.approx(true, abs=0.04)
        assert pruning.of_all(selected, early, len(early)) == pytest.approx(selected)


def add(study: optuna.Study, state, curve, value=None) -> optuna.trial.FrozenTrial:
    study.add_trial(optuna.create_trial(state=state, value=value, intermediate_values=curve))
    return study.trials[-1]


def begin(folder: Path, name: str, *overrides: str) -> Study:
    out = f"out={folder / name}"
    lr = "lr=[1e-5, 1e-4, 1e-3, 1e-2]"
    return Study.begin(*load_pair(*write(folder), [out, lr, "pruner=median", *overrides]))


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps of training foretell nothing."""
    monkeypatch.setattr(pruning, "FORETELLS", -2)


@pytest.mark.usefixtures("trusting")
def test_a_trial_that_was_told_to_stop_is_told_so_again(tmp_path: Path):
    """Its sweep was killed before it could: Optuna's halving notes that a rung was reached, and
    lets what it meets there again go on."""
    worst = Point(step=2, seconds=1, train_loss=1, score=-1)
    with begin(tmp_path, "killed", "pruner=halving") as study:
        for i in range(LEAST):
            spec = study.ask()
            assert spec
            point = worst.model_copy(update={"score": i / LEAST})
            study.hear(spec.number, point)
            record = outcome(spec, "complete", None, score=i / LEAST, curve=(point,))
            record.write(study.folder.record_file(spec.number))
            study.tell(record)
        spec = study.ask()
        assert spec
        told = study.hear(spec.number, worst)
        assert told
        assert study._live[spec.number][1].should_prune() is False
    with begin(tmp_path, "killed", "pruner=halving") as study:
        assert study.ask() == spec
        assert study.hear(spec.number, worst) == told


def test_a_stopped_trial_counts_as_what_it_was_to_become(tmp_path: Path):
    """Better than two that ran to their end is one that was ahead of them where it was stopped."""
    early, final = (0.2, 0.1, 0.4), (0.5, 0.3, 0.9)
    with begin(tmp_path, "stopped") as study:
        for a, b in zip((*early, 0.3, math.nan), (*final, None, None), strict=True):
            spec = study.ask()
            assert spec
            point = Point(step=2, seconds=1, train_loss=1, score=a)
            state = "pruned" if b is None else "complete"
            study.tell(outcome(spec, state, None, score=b, curve=(point,)))
        history = study._optuna.sampler._history(study._optuna)  # pyright: ignore
    # Gains of 0.3, 0.2 and 0.5.
    assert [tried.score for tried in history] == pytest.approx([*final, 0.6, -math.inf])


def kept(study: Study) -> list[dict]:
    """What both executors know of a trial."""
    told = {"number", "digest", "lr", "state", "reason", "score"}
    return [
        record.model_dump(include=told)
        | {"curve": [(point.step, point.score) for point in record.curve]}
        for record in sorted(study.records, key=lambda record: record.number)
    ]


@pytest.mark.usefixtures("trusting")
@pytest.mark.slow  # a sweep by each of two executors
def test_both_executors_stop_the_same_trials(tmp_path: Path):
    view = Silent()
    with begin(tmp_path, "local") as study:
        local.execute(study, 1, view)
        states = [trial.state for trial in study._optuna.trials]
        expected = kept(study)
    assert [number for event, number in view.events if event == "finished"] == list(range(16))
    pruned = [found for found in expected if found["state"] == "pruned"]
    assert len(pruned) >= 2
    assert states.count(optuna.trial.TrialState.PRUNED) == len(pruned)
    for found in pruned:
        assert found["score"] is None
        assert found["curve"][-1][0] < 6
        assert found["reason"].startswith(f"at step {found['curve'][-1][0]} of 6")
    files = sorted((tmp_path / "local" / "trials").glob("*/record.json"))
    assert [TrialRecord.read(file).state for file in files] == [x["state"] for x in expected]

    # Opened again, nothing is left to do.
    with begin(tmp_path, "local") as study:
        assert study.ask() is None
        assert kept(study) == expected

    set_up_ray(None)
    from miras_search.executor import ray

    with begin(tmp_path, "ray", "executor=ray") as study:
        ray.execute(study, 1, Silent())
        assert kept(study) == expected

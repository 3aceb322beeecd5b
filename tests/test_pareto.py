"""Fronts of quality and cost."""

import math
import random

import hypothesis.strategies as st
import numpy as np
import pytest
import study_samples as samples
from hypothesis import given
from made_tables import additive, pool
from study_files import write

from miras_search import finals, pareto
from miras_search import samplers as every
from miras_search.errors import UserError
from miras_search.recipe import Recipe, load_pair
from miras_search.report import sentences
from miras_search.report.leaderboard import best_per_variant
from miras_search.samplers.base import Tried
from miras_search.study import Study
from miras_search.trial import outcome

values = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])


@given(st.integers(1, 3).flatmap(lambda k: st.lists(st.tuples(*[values] * k), max_size=12)))
def test_the_front_is_what_nothing_dominates(rows):
    def dominates(one, other):
        pairs = [*zip(one, other, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    known = [row for row in rows if not any(map(math.isnan, row))]
    expected = [row in known and not any(dominates(x, row) for x in known) for row in rows]
    assert [*pareto.front(rows)] == expected


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_fronts_of_trials_by_cost(task):
    """Trials are (score, parameters, state): the first is best, the second smaller, the third has
    the smaller state of the same score, the fourth is beaten in all. To compile is no cost."""
    how = samples.recipe(task)
    sign = 1 if how.task.direction == "maximize" else -1
    found = [
        samples.record(
            number,
            samples.variants()[number],
            1 + sign * score,
            how=how,
            parameters=parameters,
            state_bytes=state,
            flops_per_token=None,
        ).model_copy(update={"seconds": 9.0 - number, "compile_seconds": 4.0 - number})
        for number, (score, parameters, state) in enumerate(
            [(0.9, 100, 8), (0.5, 50, 8), (0.5, 60, 4), (0.4, 100, 8)]
        )
    ]
    found.append(samples.record(4, samples.variants()[4], None, how=how))
    assert pareto.fronts(found, how) == {
        0: ["state_bytes", "parameters", "seconds"],
        1: ["parameters"],
        2: ["state_bytes"],
        3: [],
    }


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=1, max_size=12), st.integers(0, 14))
def test_the_leading_peel_fronts_off(rows, count):
    left, expected = [*range(len(rows))], []
    while left:
        front = [i for i, on in zip(left, pareto.front([rows[i] for i in left]), strict=True) if on]
        expected += front
        left = [i for i in left if i not in front]
    assert pareto.leading(rows, count) == expected[:count]


def test_a_row_that_is_not_known_comes_last():
    assert pareto.leading([[1, math.nan], [1, 1], [2, 2], [0, math.nan]], 4) == [1, 2, 0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_whoever_is_best_by_a_weighing_is_on_the_front_and_each_of_it_is_by_some(seed):
    """Of 10 rows, where one that wins by less than 1 % of weighings is missed in e^-20 of runs."""
    losses = np.random.default_rng(seed).normal(size=(10, 2))
    rng = random.Random(seed)
    best = {int(pareto.weighed(losses, rng).argmax()) for _ in range(2000)}
    assert best == {*np.flatnonzero(pareto.front(losses))}


def test_what_is_not_known_is_worst():
    rng = random.Random(0)
    told = [pareto.weighed([[0.0, math.nan], [1.0, 5.0], [2.0, 7.0]], rng) for _ in range(100)]
    best = [int(values.argmax()) for values in told]
    assert {0, 1} == {*best}


def volume(losses, worst):
    """What is dominated, up to the worst of each objective: a sum of strips."""
    total, height = 0.0, worst[1]
    for x, y in sorted(map(tuple, losses)):
        if y < height:
            total += (worst[0] - x) * (height - y)
            height = y
    return total


POOL = pool()


@pytest.mark.parametrize("name", ["evolution", "local"])
def test_a_search_for_a_front_finds_more_of_it_than_random_search(name):
    """On tables with a score and a cost of their own, with 60 trials. By 4.3 standard deviations
    of a binomial with odds of 1/2: a false alarm in 1 of 10^5."""
    wins = losses = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        score, cost = additive(POOL, rng)[:, 0], np.exp(additive(POOL, rng)[:, 0])
        found = {}
        for method in (name, "random"):
            sampler = every.find(method)(POOL, seed)
            sampler.objectives = ("score", "seconds")
            tried: list[Tried] = []
            for _ in range(60):
                move = sampler.next(tried)
                costs = {"seconds": float(cost[move.point])}
                tried.append(Tried(move.point, float(score[move.point]), move.note, costs))
            points = [trial.point for trial in tried]
            all_of_it = np.stack([-score, np.log(cost)], axis=1)
            found[method] = volume(all_of_it[points], all_of_it.max(axis=0))
        wins += found[name] > found["random"]
        losses += found[name] < found["random"]
    assert wins - losses > 4.3 * math.sqrt(wins + losses)


def begin(folder, *overrides):
    space = "memory: [matrix, {kind: mlp, expansion: [1, 2]}, vector]\n"
    space += "bias: [l2, {kind: lp, p: [1.5, 3, 4]}]\nretention: l2\nalgorithm: [gd, momentum]\n"
    how = ["objectives=[score, state_bytes]", "sampler=evolution", "trials=30", f"out={folder}"]
    return Study.begin(*load_pair(*write(folder.parent / "files", space), [*how, *overrides]))


def answered(study):
    """Answer without training: a score and a state that each variant has of its own."""
    asked = []
    while (spec := study.ask()) is not None:
        record = outcome(spec, "complete", None)
        own = int(record.digest, 16)
        told = {"score": own % 997 / 1000, "state_bytes": 1 + own % 1009, "seconds": 1.0}
        record = record.model_copy(update=told)
        record.write(study.folder.record_file(spec.number))
        study.tell(record)
        asked.append((record.digest, record.lr))
    return asked


def test_a_study_for_a_front_goes_on_where_it_was_cut_off(tmp_path):
    with begin(tmp_path / "whole") as study:
        whole = answered(study)
    parts = []
    for trials in (4, 19, 30):
        with begin(tmp_path / "parts", f"trials={trials}") as study:
            parts += answered(study)
    assert parts == whole
    # The other objective has a part in it.
    with begin(tmp_path / "score", "objectives=[score]") as study:
        assert answered(study) != whole


def test_finalists_come_from_the_front_first():
    how = samples.recipe(objectives=["score", "state_bytes"], finalists=3)
    states = {0: (0.9, 100), 1: (0.8, 100), 2: (0.5, 10), 3: (0.2, 5)}
    records = [
        samples.record(i, samples.variants()[i], score, how=how, state_bytes=state)
        for i, (score, state) in states.items()
    ]
    chosen = {record.number for record in finals.wanted(records, how).values()}
    assert chosen == {0, 2, 3}
    alone = Recipe.from_dict(how.to_dict() | {"objectives": ["score"]})
    entries = best_per_variant(records, how)
    told = "On the front of score and state bytes, by their best trials: 1, 3, 4 (of 4 variants"
    assert sentences.front(entries, how).startswith(told)
    assert sentences.front(entries, alone) is None
    assert {record.number for record in finals.wanted(records, alone).values()} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("objectives=[score, state_byte]", "did you mean 'state_bytes'?"),
        ("objectives=[state_bytes]", "expected score and others of"),
        ("objectives=[score, score]", "each once"),
        ("objectives=[]", "expected score"),
        ("pruner=halving", "expected pruner: none with several objectives"),
    ],
)
def test_what_cannot_be_sought_is_told(tmp_path, change, told):
    with pytest.raises(UserError, match=told.replace("?", r"\?")):
        begin(tmp_path / "study", change)

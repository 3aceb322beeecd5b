"""What is tried next: domains against their definitions, samplers against what they promise."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from made_tables import RECIPE, pool
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar

from miras_search import samplers
from miras_search.recipe import Recipe
from miras_search.samplers import gp
from miras_search.samplers.base import SPEC, Exhausted, Sampler, Tried
from miras_search.samplers.evolution import POPULATION, TOURNAMENT
from miras_search.search.candidate import OptunaChooser, draw
from miras_search.search.domain import domain
from miras_search.search.endless import Endless
from miras_search.search.pool import Pool
from miras_search.space import RandomChooser, Space
from miras_search.variant import Variant

SMALL = {
    "memory": ["matrix", {"kind": "mlp", "expansion": [1, 2]}],
    "bias": ["l2", "dot", {"kind": "lp", "p": [2, 3]}],
    "retention": "l2",
    "algorithm": ["gd", {"kind": "momentum", "momentum": [0, 0.9]}],
    "chunk": [4, 8],
    "where": ["memory.kind == 'mlp' or bias.kind != 'lp'"],
}
"""Merged points (lp 2 is l2, momentum 0 is gd, dot ignores the chunk), and refused ones."""

UNION = {
    "union": [
        {"name": "linear", "memory": "matrix", "bias": ["dot", "l2"], "retention": ["none", "l2"]},
        {"name": "deep", "memory": "mlp", "bias": ["l2", "l1"], "retention": "l2", "chunk": 8},
        {"name": "attention", "memory": "attention", "bias": "dot", "retention": "none"},
    ],
    "algorithm": "gd",
}

ENDLESS = {**SMALL, "bias": ["l2", "dot", {"kind": "lp", "p": {"uniform": [1.5, 4]}}]}

TWO, RANGE = [1e-3, 3e-3], {"log_uniform": [1e-3, 1e-1]}
"""Learning rates."""

ALL = samplers.names()
DRAWING = [name for name in ALL if name != "grid"]
"""Samplers that need no end."""


def recipe(lr: object) -> Recipe:
    return Recipe.from_dict(RECIPE | {"lr": lr})


def small(lr: object = TWO) -> Pool:
    return Pool.of(Space.from_dict(SMALL), recipe(lr))


def endless(space: dict = ENDLESS, lr: object = RANGE) -> Endless:
    return Endless(Space.from_dict(space), recipe(lr))


def run(sampler: Sampler, trials: int, score=lambda i: 0.1 * (i * 7 % 11)) -> list[Tried]:
    """One trial after another, each finished before the next."""
    tried: list[Tried] = []
    for i in range(trials):
        move = sampler.next(tried)
        if move is None:
            break
        tried.append(Tried(move.point, score(i), move.note))
    return tried


def written_forms(space: Space) -> dict[str, list[tuple]]:
    """Every way to write each variant, from the space's own enumeration of its parts."""
    found: dict[str, list[tuple]] = {}
    for part in space.parts:
        for point in part.points():
            if isinstance(point, Variant):
                form = tuple(getattr(point, name) for name in Variant.model_fields)
                found.setdefault(point.digest, []).append(form)
    return found


@pytest.mark.parametrize("content", [SMALL, UNION], ids=["merged", "union"])
def test_points_are_the_distinct_feasible_ones_and_as_far_apart_as_defined(content: dict) -> None:
    space = Space.from_dict(content)
    made = Pool.of(space, recipe([1e-3, 3e-3]))
    forms = written_forms(space)
    assert sorted(c.key for c in made.candidates) == sorted(itertools.product(forms, (1e-3, 3e-3)))
    assert len(made) == 2 * space.size
    for i, one in enumerate(made.candidates):
        expected = [
            min(
                sum(a != b for a, b in zip(x, y, strict=True))
                for x in forms[one.digest]
                for y in forms[other.digest]
            )
            + (one.lr != other.lr)
            for other in made.candidates
        ]
        assert made.distances(made.forms_of(i)).tolist() == expected


def test_near_is_among_the_nearest_that_were_not_tried() -> None:
    made, rng = small(), random.Random(0)
    distances = made.distances(made.forms_of(5))
    for count in (1, 10, 30, len(made) - 1, len(made)):
        tried = {5, *rng.sample(range(len(made)), count - 1)}
        free = [i for i in range(len(made)) if i not in tried]
        nearest = {i for i in free if distances[i] == min(distances[free])} if free else {None}
        assert {made.near(5, tried, rng) for _ in range(200)} <= nearest
        single = {i for i in free if distances[i] == 1} or {None}
        assert {made.neighbour(5, tried, rng) for _ in range(200)} <= single


def test_a_proposal_that_cannot_be_tried_becomes_the_nearest() -> None:
    made, rng = small(), random.Random(1)
    forms = {tuple(form): i for i, form in enumerate(made.forms.tolist())}
    refused = again = 0
    for _ in range(300):
        seed = rng.random()
        drawn = draw(made.space, made.recipe, RandomChooser(random.Random(seed)))
        point = made.snap(RandomChooser(random.Random(seed)), set(), rng)
        if drawn.candidate is not None:
            assert made.candidates[point] == drawn.candidate
            other = made.snap(RandomChooser(random.Random(seed)), {point}, rng)
            assert made.distances(made.forms_of(point))[other] == 1
            again += 1
        else:  # lp on a matrix: another memory or another bias
            written = drawn.written.written
            assert written.bias.kind == "lp"
            chosen = made.candidates[point]
            written_again = [f for f in forms if forms[f] in range(*_span(made, point))]
            values = [*(getattr(written, n) for n in Variant.model_fields), drawn.lr]
            code = [c.get(v, -1) for c, v in zip(made.codes, values, strict=True)]
            apart = min(sum(a != b for a, b in zip(code, f, strict=True)) for f in written_again)
            assert apart == 1, chosen
            refused += 1
    assert min(refused, again) > 50


def _span(made: Pool, point: int) -> tuple[int, int]:
    ends = [*made.first[1:], len(made.forms)]
    return int(made.first[point]), int(ends[point])


@pytest.mark.parametrize("name", ALL)
def test_a_finite_space_is_given_out_whole_and_each_point_once(name: str) -> None:
    made = small()
    tried = run(samplers.find(name)(made, 3), 10**6)
    assert sorted(trial.point for trial in tried) == list(range(len(made)))


def history(made, count: int, seed: int) -> list[Tried]:
    """Trials that completed, failed and still run."""
    rng, tried = random.Random(seed), []
    for i in range(count):
        point = made.random({trial.point for trial in tried}, rng)
        score = [-math.inf, None, rng.random(), rng.random(), rng.random()][rng.randrange(5)]
        tried.append(Tried(point, score, i // 12))
    return tried


MADE = {"pool": small(), "open": endless(), "lr": endless(SMALL)}
PAIRS = [(name, made) for name in ALL for made in MADE if name in DRAWING or made == "pool"]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_proposal_is_new_and_depends_on_seed_number_and_results_alone(
    name: str, kind: str
) -> None:
    """A sampler that saw the study grow proposes what a fresh one does."""
    made = MADE[kind]
    grown, differing = samplers.find(name)(made, 0), 0
    for count in (0, 1, 5, 12, 13, 40):
        tried = history(made, count, seed=4)
        move = grown.next(tried)
        assert move == samplers.find(name)(made, 0).next(tried)
        assert move.point not in {trial.point for trial in tried}
        assert (
            made.candidate(move.point).key
            == made.candidate(made.find(made.candidate(move.point).answers)).key
        )
        differing += move != samplers.find(name)(made, 1).next(tried)
    assert differing > 0


def test_a_grid_keeps_the_rates_of_a_variant_together() -> None:
    made = small()
    order = [made.candidates[t.point] for t in run(samplers.find("grid")(made, 1), 1000)]
    assert all(a.digest == b.digest for a, b in zip(order[::2], order[1::2], strict=True))
    assert [c.digest for c in order[::2]] != sorted(c.digest for c in order[::2])


@pytest.mark.parametrize("lr", [1e-3, {"log_uniform": [1e-3, 1e-1]}], ids=["finite", "lr"])
def test_random_search_draws_distinct_variants_evenly(lr: object) -> None:
    """Chi-square over the first proposals of many seeds; a false alarm has odds of 1 in 10^5."""
    space = Space.from_dict(SMALL)
    made = domain(space, recipe(lr))
    draws = 60 * space.size
    first = (samplers.find("random")(made, seed).next([]) for seed in range(draws))
    counts = Counter(made.candidate(move.point).digest for move in first)
    assert len(counts) == space.size
    chi2 = sum((count - 60) ** 2 / 60 for count in counts.values())
    free = space.size - 1
    # Wilson and Hilferty: the cube root of chi-square / free is close to normal; 4.27 is 1e-5.
    limit = free * (1 - 2 / (9 * free) + 4.27 * math.sqrt(2 / (9 * free))) ** 3
    assert chi2 < limit


def test_points_without_an_end_are_feasible_and_change_one_answer() -> None:
    made, rng = endless(), random.Random(0)
    tried = set()
    for _ in range(100):
        origin = made.random(tried, rng)
        tried.add(origin)
        other = made.near(origin, tried, rng)
        for point in (origin, other):
            written = draw(made.space, made.recipe, _Replay(point.answers)).written
            assert isinstance(written, Variant)
        shared = origin.answers.keys() & other.answers.keys()
        assert sum(origin.answers[name] != other.answers[name] for name in shared) <= 1
        assert origin != other
        tried.add(other)
    assert len(tried) == 200


class _Replay:
    """Knows every answer."""

    def __init__(self, answers):
        self.answers = answers

    def choice(self, name, labels):
        return labels.index(self.answers[name])

    def number(self, name, range):
        return self.answers[name]


def test_a_neighbourhood_without_an_end_is_left_after_some_tries() -> None:
    made, rng = endless(), random.Random(0)
    origin = made.random(set(), rng)
    tried = {origin}
    while (point := made.neighbour(origin, tried, rng)) is not None:
        tried.add(point)
    assert 10 < len(tried) < 50


def test_a_model_of_many_results_knows_the_best_and_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gp, "MOST", 8)
    seen = []
    likeliest = gp._likeliest

    def noted(places: Any, values: Any, rng: Any) -> Any:
        seen.append(len(values))
        return likeliest(places, values, rng)

    monkeypatch.setattr(gp, "_likeliest", noted)
    made = small()
    tried = run(gp.Gp(made, 0), 14)
    assert seen == [5, 6, 7, 8, 8, 8, 8, 8, 8]
    assert len({one.point for one in tried}) == 14


def test_the_likelihood_of_a_kernel_is_that_of_its_normal_distribution() -> None:
    """At the variance that makes it largest, of which a search by scipy finds none better."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=9)
    roots = rng.normal(size=(4, 9, 9))
    covariances = roots @ roots.transpose(0, 2, 1) / 9 + gp.NOISE[0] * np.eye(9)

    def largest(covariance: Any) -> float:
        def worse(log_scale: float) -> float:
            scaled = math.exp(log_scale) * covariance
            return -scipy_stats.multivariate_normal(cov=scaled).logpdf(values)

        return -minimize_scalar(worse, bounds=(-9, 9), method="bounded").fun

    found = gp._likelihoods(covariances, values)
    expected = [*map(largest, covariances)]
    assert found - found[0] == pytest.approx(np.array(expected) - expected[0], abs=1e-6)


def test_evolution_changes_one_axis_of_one_that_is_alive() -> None:
    made = pool()
    tried = run(samplers.find("evolution")(made, 0), 100)
    for i in range(POPULATION, 100):
        alive = [trial.point for trial in tried[i - POPULATION : i]]
        assert min(made.distances(made.forms_of(p))[tried[i].point] for p in alive) == 1


def test_the_parent_wins_its_tournament() -> None:
    """The best of k rivals has k - 1 below it: the worst of the population are no parents."""
    made = pool()
    tried = [Tried(i, float(i)) for i in range(POPULATION)]
    parents = set()
    for seed in range(100):
        child = samplers.find("evolution")(made, seed).next(tried).point
        near = made.distances(made.forms_of(child))[:POPULATION] == 1
        parents.add(int(near.nonzero()[0].max()))
    assert TOURNAMENT - 1 <= min(parents) < max(parents) == POPULATION - 1


def test_local_search_climbs_and_begins_again_at_an_optimum() -> None:
    made = small()
    worth = np.random.default_rng(0).random(len(made))
    sampler, tried = samplers.find("local")(made, 0), []
    while (move := sampler.next(tried)) is not None:
        same = [trial for trial in tried if trial.note == move.note]
        if len(same) >= 10:
            top = max(same, key=lambda trial: trial.score).point
            assert made.distances(made.forms_of(top))[move.point] == 1
        elif tried and not same:  # a new climb: the last had nowhere to go
            last = [trial for trial in tried if trial.note == move.note - 1]
            top = max(last, key=lambda trial: trial.score).point
            near = np.flatnonzero(made.distances(made.forms_of(top)) == 1)
            assert {*near.tolist()} <= {trial.point for trial in tried}
        tried.append(Tried(move.point, worth[move.point], move.note))
    assert tried[-1].note >= 2


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_samplers_follow_the_direction_of_the_study(direction: str) -> None:
    """On a plain sum of effects a climb of 60 trials ends at the optimum of 320 points.

    There is one local optimum, and it has few neighbours.
    """
    made = pool()
    forms = made.forms[made.first]
    sign = 1 if direction == "maximize" else -1
    weights = np.zeros(forms.shape[1], dtype=int)
    weights[:4] = 9, 5, 4, 3
    worth = (sign * (forms @ weights)).tolist()
    study = optuna.create_study(direction=direction, sampler=samplers.find("local")(made, 0))
    for _ in range(80):
        trial = study.ask()
        candidate = draw(made.space, made.recipe, OptunaChooser(trial)).candidate
        trial.set_user_attr(SPEC, "")
        study.tell(trial, worth[made.numbers[candidate]])
    assert study.best_value == (max(worth) if sign > 0 else min(worth))
    assert len({tuple(t.params.items()) for t in study.trials}) == 80


@pytest.mark.parametrize("name", ALL)
def test_optuna_is_asked_by_many_workers_and_never_twice(name: str) -> None:
    """Eight at a time, some of which fail, until nothing is left."""
    made = small()
    study = optuna.create_study(direction="minimize", sampler=samplers.find(name)(made, 0))
    seen, running = [], []
    while True:
        trial = study.ask()
        try:
            drawn = draw(made.space, made.recipe, OptunaChooser(trial))
        except Exhausted:
            break
        assert trial.params == dict(made.candidates[made.numbers[drawn.candidate]].answers)
        trial.set_user_attr(SPEC, "")
        seen.append(drawn.candidate)
        running.append(trial)
        if len(running) == 8:
            first = running.pop(0)
            if first.number % 5:
                study.tell(first, first.number % 7)
            else:
                study.tell(first, state=optuna.trial.TrialState.FAIL)
    assert len(seen) == len({*seen}) == len(made)


@pytest.mark.parametrize("name", DRAWING)
def test_a_sampler_learns_nothing_wrong_from_trials_that_all_fail(name: str) -> None:
    made = small()
    tried = run(samplers.find(name)(made, 0), 40, score=lambda i: -math.inf)
    assert len({trial.point for trial in tried}) == 40


def test_samplers_are_files_and_an_unknown_one_is_named() -> None:
    assert ALL == ("evolution", "gp", "grid", "local", "random", "tpe")
    with pytest.raises(ValueError, match="unknown sampler 'evolutoin': did you mean 'evolution'"):
        Recipe.from_dict(RECIPE | {"sampler": "evolutoin"})

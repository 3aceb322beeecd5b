"""Finals from a real sweep: who runs again, on what, and what a resumed study adds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import study_samples as samples
from study_files import run, write

from miras_search import finals
from miras_search.folder import StudyFolder
from miras_search.recipe import load_pair
from miras_search.record import TrialRecord
from miras_search.registry import kinds
from miras_search.study import Study
from miras_search.trial import run as run_trial
from miras_search.variant import Variant


def sweep(files: tuple[str, str], out: Path, *overrides: str) -> list[TrialRecord]:
    done = run("sweep", *files, f"out={out}", "workers=2", *overrides)
    assert done.returncode == 0, done.stderr
    return StudyFolder(out).records()


def sweep_here(files: tuple[str, str], out: Path, *overrides: str) -> list[TrialRecord]:
    """The same in this process, without an executor."""
    with Study.begin(*load_pair(*files, [f"out={out}", *overrides])) as study:
        while (spec := study.ask()) is not None:
            study.tell(run_trial(spec))
    return StudyFolder(out).records()


def leaders(records: list[TrialRecord], count: int) -> list[tuple[str, float]]:
    """The leading variants of a search for accuracy, each with its best rate; ties by number."""
    best: dict[str, tuple[float, int, float]] = {}
    for r in records:
        if r.phase == "search" and r.score is not None:
            best[r.digest] = min(best.get(r.digest, (1.0, 0, 0.0)), (-r.score, r.number, r.lr))
    order = sorted(best, key=lambda digest: best[digest])
    return [(digest, best[digest][2]) for digest in order[:count]]


@pytest.mark.parametrize(
    ("sweep", "executor"),
    [
        (sweep_here, "local"),
        pytest.param(sweep, "local", marks=pytest.mark.slow),
        pytest.param(sweep, "ray", marks=pytest.mark.slow),
    ],
)
def test_leaders_run_again_on_the_same_new_seeds(
    tmp_path: Path, sweep: Callable[..., list[TrialRecord]], executor: str
) -> None:
    files, out = write(tmp_path), tmp_path / "out"
    how = ("steps=20", f"executor={executor}")
    first = sweep(files, out, *how, "finalists=2", "seeds=3")
    runs = [(r.digest, r.lr, r.seed) for r in first if r.phase == "finals"]
    new = {seed for *_, seed in runs}
    assert len(new) == 3
    assert 0 not in new  # that of the search
    assert sorted(runs) == sorted((*leader, seed) for leader in leaders(first, 2) for seed in new)
    assert [r.phase for r in first] == ["search"] * 8 + ["finals"] * 6

    # More of both: what was run stays as it was, and only what is missing is added.
    more = sweep(files, out, *how, "finalists=3", "seeds=4")
    assert more[: len(first)] == first
    runs = [(r.digest, r.lr, r.seed) for r in more if r.phase == "finals"]
    seeds = {seed for *_, seed in runs}
    assert new < seeds
    assert len(seeds) == 4
    assert len(runs) == len({*runs}) == 12
    assert {*runs} == {(*leader, seed) for leader in leaders(more, 3) for seed in seeds}

    # The winner is the first of the finals, by its mean; best/ is one of its runs.
    scores: dict[str, list[float]] = {}
    for record in more:
        if record.phase == "finals":
            scores.setdefault(record.digest, []).append(record.score)
    winner = finals.winner(more, StudyFolder(out).recipe)
    assert winner is not None
    assert winner.phase == "finals"
    assert mean(scores[winner.digest]) == max(map(mean, scores.values()))
    assert winner.score == max(scores[winner.digest])
    shown = run("show", str(out / "best.yaml"))
    assert winner.digest in shown.stdout


@pytest.mark.parametrize("objectives", [("score",), ("score", "state_bytes")])
def test_ablations_are_the_best_that_differ_from_the_first_in_one_choice(objectives) -> None:
    """By a loop over all of them: of another kind, where there is one."""
    how = samples.recipe(finalists=1, ablations=True, seeds=3, objectives=objectives)
    first, *others = samples.variants()
    others.append(first.replace(memory=kinds("memory")["matrix"](), chunk=8))
    deeper = next(v for v in others if v.memory.kind == "mlp" and v.single_difference(first))
    wide = deeper.replace(memory=deeper.memory.model_copy(update={"expansion": 4}))
    order = [first, *random.Random(0).sample([*others, wide], len(others) + 1)]
    found = [samples.record(i, v, 0.9 - 0.01 * i, how=how) for i, v in enumerate(order)]
    expected = {}
    for record in found:
        variant = Variant.from_dict(record.variant)
        choice = first.single_difference(variant)
        if choice and choice not in expected:
            expected[choice] = variant.digest
    assert {*expected} == {"memory", "bias", "retention", "algorithm", "chunk"}
    ran = [digest for digest, *_ in finals.wanted(found, how)]
    assert {*ran} == {first.digest, *expected.values()}
    assert len(ran) == 3 * 6
    # A finalist already, and none of a first that keeps pairs.
    more = {digest for digest, *_ in finals.wanted(found, how.model_copy(update={"finalists": 4}))}
    if len(objectives) == 1:
        assert more == {*ran} | {record.digest for record in found[:4]}
    assert {*ran} < more
    pairs = found[order.index(samples.variants()[-1])].model_copy(update={"score": 1.0})
    assert {digest for digest, *_ in finals.wanted([*found, pairs], how)} == {pairs.digest}


def test_an_ablation_is_of_another_kind_where_there_is_one() -> None:
    how = samples.recipe(finalists=1, ablations=True, seeds=3)
    first = samples.variants()[0].replace(memory=kinds("memory")["mlp"](expansion=2))
    wide, matrix = (
        first.replace(memory=memory)
        for memory in (kinds("memory")["mlp"](expansion=4), kinds("memory")["matrix"]())
    )
    for variants in ((first, wide, matrix), (first, wide)):
        found = [samples.record(i, v, 0.9 - 0.1 * i, how=how) for i, v in enumerate(variants)]
        ran = {digest for digest, *_ in finals.wanted(found, how)}
        assert ran == {first.digest, variants[-1].digest}


@pytest.mark.slow  # three sweeps
def test_finals_are_those_of_a_study_that_was_never_cut(tmp_path: Path) -> None:
    files = write(tmp_path)
    how = ("steps=20", "finalists=2", "workers=1")
    whole = sweep(files, tmp_path / "whole", *how)
    sweep(files, tmp_path / "parts", "steps=20", "workers=1")
    parts = sweep(files, tmp_path / "parts", *how)
    assert [(r.digest, r.lr, r.seed, r.phase, r.score) for r in parts] == [
        (r.digest, r.lr, r.seed, r.phase, r.score) for r in whole
    ]

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
from miras_search.recipe import Recipe, load_pair
from miras_search.record import TrialRecord
from miras_search.registry import kinds
from miras_search.report import sentences
from miras_search.report.leaderboard import variant_of
from miras_search.study import Study
from miras_search.trial import run as run_trial


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


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_who_has_several_seeds_is_judged_by_their_mean(task: str) -> None:
    """As in a study that was merged: the luckiest seed is not what counts."""
    how = samples.recipe(task, finalists=1, seeds=3)
    lucky, steady, *_ = samples.variants()
    sign = 1 if how.task.direction == "maximize" else -1
    found = [
        samples.record(i, variant, sign * score, how=how, seed=seed)
        for i, (variant, seed, score) in enumerate(
            [(lucky, 0, 0.9), (steady, 0, 0.6), (lucky, 1, 0.1), (steady, 1, 0.7)]
        )
    ]
    assert {digest for digest, *_ in finals.wanted(found, how)} == {steady.digest}


def played(found: list[TrialRecord], how: Recipe, means: list[float]) -> list[TrialRecord]:
    """The records, and the finals of those that lead, who have these means."""
    only = how.model_copy(update={"ablations": False})
    scores = [mean + 0.01 * seed for seed in range(how.seeds) for mean in means]
    return [*found, *samples.finals(found, only, scores)]


@pytest.mark.parametrize("objectives", [("score",), ("score", "state_bytes")])
def test_ablations_are_the_best_that_differ_from_the_first_in_one_choice(objectives) -> None:
    """By a loop over all of them; the first is that of the finals, not of the search."""
    how = samples.recipe(finalists=2, ablations=True, seeds=3, objectives=objectives)
    first, *others = samples.variants()
    others.append(first.replace(memory=kinds("memory")["matrix"](), chunk=8))
    attention = others.pop(others.index(samples.variants()[-1]))
    order = [attention, first, *random.Random(0).sample(others, len(others))]
    found = [samples.record(i, v, 0.9 - 0.01 * i, how=how) for i, v in enumerate(order)]
    if len(objectives) > 1:  # on the front: attention has the largest state
        found = [r.model_copy(update={"state_bytes": 100 - 50 * (r.number > 0)}) for r in found]
    two = {attention.digest, first.digest}
    assert {digest for digest, *_ in finals.wanted(found, how)} == two
    assert not finals.settled(found, how)
    expected: dict[str, str] = {}
    for variant in order:
        if choice := first.single_difference(variant):
            expected.setdefault(choice, variant.digest)
    assert {*expected} == {"memory", "bias", "retention", "algorithm", "chunk"}
    ended = played(found, how, [0.5, 0.6])
    assert finals.settled(ended, how)
    ran = [digest for digest, *_ in finals.wanted(ended, how)]
    assert {*ran} == two | {*expected.values()}
    assert len(ran) == 3 * 7
    assert not finals.over(ended, how)
    # Nothing differs from what keeps pairs in one choice, and who fell on a seed is no first.
    assert {d for d, *_ in finals.wanted(played(found, how, [0.6, 0.5]), how)} == two
    fell = next(r for r in ended if r.phase == "finals" and r.digest == attention.digest)
    better = played(found, how, [0.6, 0.5])
    better[fell.number] = better[fell.number].model_copy(update={"score": None, "state": "failed"})
    assert {d for d, *_ in finals.wanted(better, how)} == two | {*expected.values()}


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_who_is_ablated_is_the_first_of_the_finals_in_a_tie_as_well(seeds) -> None:
    """Equal scores in another order have sums that may differ in the last digit."""
    how = samples.recipe(finalists=2, ablations=True, seeds=seeds)
    only = how.model_copy(update={"ablations": False})
    one, other, *_ = samples.variants()
    found = [samples.record(i, v, 0.9 - 0.1 * i, how=how) for i, v in enumerate((one, other))]
    rng = random.Random(0)
    for _ in range(60):
        scores = [rng.randrange(100) / 100 for _ in range(seeds)]
        pairs = zip(scores, rng.sample(scores, seeds), strict=True)
        ended = [*found, *samples.finals(found, only, [score for pair in pairs for score in pair])]
        outcome = finals.standing(ended, only)
        first = finals._first(found, finals.played(ended), how)
        assert outcome is not None
        assert first is not None
        assert outcome.first.runs[0].digest == first.digest


def test_who_did_not_run_again_is_counted() -> None:
    how = samples.recipe(finalists=2, seeds=3)
    searched = [
        samples.record(i, variant, 0.9 - 0.1 * i, how=how)
        for i, variant in enumerate(samples.variants()[:4])
    ]
    outcome = finals.standing(searched + samples.finals(searched, how, [0.9, 0.1] * 3), how)
    assert outcome is not None
    assert outcome.others == 2
    assert "2 more variants with a score did not run again" in sentences.finals(outcome)[0]
    both = samples.recipe(finalists=4, seeds=3)
    all_ran = finals.standing(
        searched + samples.finals(searched, both, [0.9, 0.1, 0.2, 0.3] * 3), both
    )
    assert all_ran is not None
    assert all_ran.others == 0
    assert "did not run again" not in " ".join(sentences.finals(all_ran))


def test_runs_that_have_no_part_any_more_are_counted() -> None:
    how = samples.recipe(finalists=3, seeds=4)
    found = [samples.record(i, v, 0.9 - 0.1 * i, how=how) for i, v in enumerate(samples.variants())]
    ended = played(found, how, [0.5, 0.6, 0.7])
    for finalists, seeds, unused in ((3, 4, 0), (3, 3, 3), (2, 4, 4), (2, 3, 6)):
        now = how.model_copy(update={"finalists": finalists, "seeds": seeds})
        outcome = finals.standing(ended, now)
        assert outcome is not None
        assert outcome.unused == unused
        told = f"{unused} more runs of the finals have no part in this"
        assert (told in " ".join(sentences.finals(outcome))) == (unused > 0)


def test_of_one_variant_at_several_rates_the_better_is_held_against_others() -> None:
    """Of two studies that are judged as one."""
    how = samples.recipe(finalists=2, seeds=3)
    studies = []
    for lr, worth in ((1e-3, 0.0), (1e-2, 0.2)):
        pair = enumerate(samples.variants()[:2])
        found = [samples.record(i, v, 0.5 + 0.1 * i, how=how, lr=lr) for i, v in pair]
        scores = [0.5 + worth + 0.01 * i for i in range(6)]
        studies.append(([*found, *samples.finals(found, how, scores)], how))
    outcome = finals.pooled(studies)
    assert outcome is not None
    assert len(outcome.finalists) == 4
    (contrast,) = outcome.contrasts
    assert {contrast.better.runs[0].lr, contrast.worse.runs[0].lr} == {1e-2}


def test_an_ablation_is_of_another_kind_where_there_is_one() -> None:
    how = samples.recipe(finalists=1, ablations=True, seeds=3)
    first = samples.variants()[0].replace(memory=kinds("memory")["mlp"](expansion=2))
    wide, matrix = (
        first.replace(memory=memory)
        for memory in (kinds("memory")["mlp"](expansion=4), kinds("memory")["matrix"]())
    )
    for variants in ((first, wide, matrix), (first, wide)):
        found = [samples.record(i, v, 0.9 - 0.1 * i, how=how) for i, v in enumerate(variants)]
        ended = played(found, how, [0.5])
        ran = {digest for digest, *_ in finals.wanted(ended, how)}
        assert ran == {first.digest, variants[-1].digest}
        whole = [*ended]
        for key, trial in finals.wanted(ended, how).items():
            if key not in finals.played(ended):
                again = {"seed": key[2], "phase": "finals", "how": how}
                whole.append(samples.record(len(whole), variant_of(trial), 0.4, **again))
        outcome = finals.standing(whole, how)
        assert outcome is not None
        assert outcome.ablations == {variants[-1].digest}
        assert "(ablation)" in samples.printed(whole, how, 200)


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

"""The study: what is asked, kept, resumed and survived."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from rich.console import Console
from study_files import MANY, SPACE, begin, command, results, run, write

from miras_search import samplers, sweep
from miras_search.errors import UserError
from miras_search.folder import WEIGHTS, StudyFolder
from miras_search.merge import merge
from miras_search.recipe import load_pair
from miras_search.record import Ending, Point, write_whole
from miras_search.search import endless
from miras_search.search.candidate import Odometer
from miras_search.study import Study, study_name
from miras_search.trial import TrialSpec, outcome


def pretend(study: Study, score: float = 0.5) -> list[TrialSpec]:
    """Answer every question of a study without training."""
    specs = []
    while (spec := study.ask()) is not None:
        specs.append(spec)
        record = outcome(spec, "complete", None, score=score + spec.lr)
        record.write(study.folder.record_file(spec.number))
        study.tell(record)
    return specs


def points(specs: list[TrialSpec]) -> list[tuple[str, float]]:
    return [(json.dumps(spec.variant, sort_keys=True), spec.lr) for spec in specs]


def test_grid_asks_every_distinct_point_once(tmp_path: Path) -> None:
    # dot writes the same whatever the mlp memory holds, but reads through its hidden layer: 4.
    with begin(tmp_path) as study:
        specs = pretend(study)
    expected = set(itertools.product(["matrix", "mlp"], ["l2", "dot"], [1e-3, 1e-2]))
    asked = [(s.variant["memory"]["kind"], s.variant["bias"]["kind"], s.lr) for s in specs]
    assert sorted(asked) == sorted(expected)
    assert [spec.number for spec in specs] == list(range(8))
    # The rates of a variant follow each other.
    assert all(a[:2] == b[:2] for a, b in zip(asked[::2], asked[1::2], strict=True))


def test_a_search_that_finds_no_further_point_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 20 trials finds one in 50 draws with a probability of 0.28: all of them once in
    10^11 times."""
    monkeypatch.setattr(endless, "TRIES", 50)
    space = "memory: matrix\nretention: none\nbias: {kind: lp, p: {uniform: [1, 4]}}\n"
    space += "algorithm: gd\nheads: 2\nwhere: [bias.p < 1.02]\n"
    told = io.StringIO()
    with begin(tmp_path, "sampler=random", "lr=1e-3", "trials=20", space=space) as study:
        found = len(pretend(study))
        assert study.unfound == 20 - found > 0
        assert study.total == found
        sweep._conclude(study, Console(file=told))
    assert f"The search ended {20 - found} trials early: no point was found" in told.getvalue()


@pytest.mark.parametrize("sampler", samplers.names())
def test_samplers_never_repeat_a_point_and_stop_when_there_is_none(
    tmp_path: Path, sampler: str
) -> None:
    with begin(tmp_path, f"sampler={sampler}", "trials=100") as study:
        asked = points(pretend(study))
    assert len(asked) == len(set(asked)) == 8


@pytest.mark.parametrize("sampler", samplers.names())
def test_a_finite_space_is_searched_to_its_end(tmp_path: Path, sampler: str) -> None:
    """A sampler that always proposes what it knows to be good is given what it never tried."""
    with begin(tmp_path, f"sampler={sampler}", space=MANY) as study:
        assert study.total == 48
        assert len(set(points(pretend(study)))) == 48


def test_a_grid_takes_up_what_another_sampler_left(tmp_path: Path) -> None:
    with begin(tmp_path, "sampler=random", "trials=20", space=MANY) as study:
        asked = points(pretend(study))
    with begin(tmp_path, "sampler=grid", space=MANY) as study:
        asked += points(pretend(study))
        assert len(study._optuna.trials) == 48
    assert len(asked) == len(set(asked)) == 48


def test_a_refused_sweep_changes_nothing(tmp_path: Path) -> None:
    with begin(tmp_path, "sampler=grid") as study:
        before = study.folder.recipe_file.read_text()
        with pytest.raises(UserError, match="another sweep"), begin(tmp_path, "sampler=random"):
            pass
        assert study.folder.recipe_file.read_text() == before


@pytest.mark.parametrize("sampler", samplers.names())
def test_a_restart_goes_on_with_the_trials_it_would_have_had(tmp_path: Path, sampler: str) -> None:
    rate = "lr=[1e-3,1e-2]" if sampler == "grid" else "lr={log_uniform: [1e-3, 1e-2]}"
    with begin(tmp_path / "whole", f"sampler={sampler}", "trials=8", rate) as study:
        whole = points(pretend(study))
    parts = []
    for trials in (3, 4, 8):
        with begin(tmp_path / "parts", f"sampler={sampler}", f"trials={trials}", rate) as study:
            parts += points(pretend(study))
    assert parts == whole


def test_a_rate_that_is_named_twice_is_one(tmp_path: Path) -> None:
    twice = "lr=[1e-3, {uniform: [1e-3, 3e-3], step: 1e-3}]"
    with begin(tmp_path, "sampler=random", twice) as study:
        assert study.total == 12 == len(pretend(study))


def test_budget_without_end_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trials is required"):
        begin(tmp_path, "sampler=tpe", "lr={log_uniform: [1e-3, 1e-2]}")
    with pytest.raises(UserError, match="grid needs a finite space"):
        begin(tmp_path, "trials=3", "lr={log_uniform: [1e-3, 1e-2]}")
    assert not (tmp_path / "out").exists()


def test_a_folder_belongs_to_one_space_and_recipe(tmp_path: Path) -> None:
    with begin(tmp_path, "trials=1") as study:
        pretend(study)
    with pytest.raises(UserError, match="study of another recipe"):
        begin(tmp_path, "steps=7")
    with pytest.raises(UserError, match="study of another space"):
        begin(tmp_path, "chunk=2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is taken"):
        begin(tmp_path, f"out={tmp_path / 'other'}")
    # Files of the user, whatever they are called.
    pair = write(tmp_path / "mine")
    before = [Path(file).read_text() for file in pair]
    with pytest.raises(UserError, match="is taken"):
        begin(tmp_path, f"out={tmp_path / 'mine'}")
    assert [Path(file).read_text() for file in pair] == before


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path) -> None:
    with begin(tmp_path), pytest.raises(UserError, match="another sweep is running"):
        begin(tmp_path).__enter__()


def test_infeasible_proposals_are_refused_not_run(tmp_path: Path) -> None:
    space = SPACE.replace("retention: none", "retention: [none, l2]")
    space += "where: [retention.kind != 'l2' or bias.kind == 'l2']\n"
    with begin(tmp_path, "sampler=random", "trials=10", space=space) as study:
        specs = pretend(study)
    assert len(specs) == 10
    kinds = {(s.variant["retention"]["kind"], s.variant["bias"]["kind"]) for s in specs}
    assert ("l2", "dot") not in kinds


def test_a_torn_journal_and_a_stale_lock_are_mended(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        pretend(study)
    journal = study.folder.journal_file
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    journal.with_name("journal.log.lock").symlink_to(journal)
    began = time.monotonic()
    with begin(tmp_path) as study:
        assert len(study.records) == 8
        assert study.ask() is None
    assert time.monotonic() - began < 10


def test_a_finished_trial_that_was_not_told_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(tmp_path) as study:
        first, second = study.ask(), study.ask()
        assert first
        assert second
        outcome(first, "complete", None, score=0.9).write(study.folder.record_file(first.number))
    # As it is run now, where this process is.
    monkeypatch.chdir(tmp_path)
    with begin(tmp_path, "recompute=true", "weights=all") as study:
        assert [record.number for record in study.records] == [first.number]
        again = study.ask()
        recipe = second.recipe | {"recompute": True, "weights": "all"}
        assert again == second.model_copy(update={"cwd": str(tmp_path), "recipe": recipe})
        assert study.best
        assert study.best.score == 0.9


def test_a_trial_whose_record_was_lost_runs_again_under_its_number(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        pretend(study)
    for number in (0, 5):
        study.folder.record_file(number).unlink()
    with begin(tmp_path) as study:
        assert [spec.number for spec in pretend(study)] == [0, 5]
        assert sorted(record.number for record in study.records) == list(range(8))


def reached(step: int, score: float = 0.5) -> Point:
    return Point(step=step, seconds=1.0, train_loss=1.0, score=score)


@pytest.mark.parametrize("state", ["failed", "complete"])
def test_a_trial_with_a_result_in_the_journal_runs_to_its_end_again(
    tmp_path: Path, state: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is gone, and Optuna takes no more of it: it is neither told anything nor asked."""
    with begin(tmp_path) as study:
        spec = study.ask()
        assert spec
        study.hear(spec.number, reached(2))
        score = 0.5 if state == "complete" else None
        record = outcome(spec, state, None, score=score, curve=(reached(2),))
        record.write(study.folder.record_file(spec.number))
        study.tell(record)
    study.folder.record_file(spec.number).unlink()
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    with begin(tmp_path) as study:
        assert study.ask() == spec
        assert [study.hear(spec.number, reached(step)) for step in (2, 4)] == [None, None]
        study.tell(outcome(spec, "complete", None, score=0.75))
        assert [record.score for record in study.records] == [0.75]


def test_a_trial_that_was_cut_off_is_judged_from_there_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(tmp_path) as study:
        spec = study.ask()
        assert spec
        assert [study.hear(spec.number, reached(step)) for step in (1, 2, 3)] == [None] * 3
    # What Optuna looks at is the last step that it knows.
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    with begin(tmp_path) as study:
        assert study.ask()
        found = [study.hear(spec.number, reached(step)) is not None for step in (1, 2, 3, 4)]
    assert found == [False, False, True, True]


def test_of_runs_that_tie_the_same_is_kept_whenever_a_study_is_opened(tmp_path: Path) -> None:
    """Runs end in any order, and records are read by number; weights that are gone are gone."""
    with begin(tmp_path, "trials=1", "finalists=1", "seeds=3") as study:
        first = study.ask()
        assert first
        study.tell(outcome(first, "complete", None, score=0.5))
        specs = [spec for spec in (study.ask(), study.ask(), study.ask()) if spec]
        assert len(specs) == 3
        for spec in (first, *specs):
            file = study.folder.trial(spec.number) / WEIGHTS
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        for spec in specs[::-1]:
            record = outcome(spec, "complete", None, score=1.0)
            record.write(study.folder.record_file(spec.number))
            study.tell(record)
            study.publish()
        outcome(first, "complete", None, score=0.5).write(study.folder.record_file(first.number))
    best = study.folder.best_checkpoint.resolve()
    assert (best / WEIGHTS).is_file()
    with begin(tmp_path, "trials=1", "finalists=1", "seeds=3") as study:
        assert study.folder.best_checkpoint.resolve() == best
        assert (best / WEIGHTS).is_file()


def test_a_lost_journal_is_said_before_anything_runs_again(tmp_path: Path) -> None:
    """What was asked is in it alone: a sweep would train all again, over what is there."""
    with begin(tmp_path) as study:
        pretend(study)
    journal, recipe = study.folder.journal_file, study.folder.recipe_file.read_bytes()
    whole, records = journal.read_bytes(), study.folder.records()
    journal.write_bytes(whole[: len(whole) // 2])
    told = "knows nothing of . trials with a record, of which . is the first: expected the whole"
    with pytest.raises(UserError, match=told), begin(tmp_path):
        pass
    assert study.folder.records() == records
    journal.unlink()
    for there in (False, True):  # and an empty one is as lost
        told = (
            "knows nothing of 8 trials with a record, of which 0 is the first: expected the whole"
        )
        with pytest.raises(UserError, match=told) as caught, begin(tmp_path, "weights=all"):
            pass
        assert str(caught.value).startswith(f"{journal}: ")
        done = run("resume", str(study.folder.path))
        assert (done.returncode, done.stdout) == (2, "")
        assert journal.exists() == there
        assert study.folder.recipe_file.read_bytes() == recipe
        journal.touch()
    for record in study.folder.records():  # without records there is nothing to lose
        study.folder.record_file(record.number).unlink()
    with begin(tmp_path) as study:
        assert len(pretend(study)) == 8


def test_trials_that_are_gone_take_no_results_with_them(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        pretend(study)
    folder = study.folder
    leaderboard = folder.leaderboard_file.read_bytes()
    (folder.path / "trials").rename(tmp_path / "elsewhere")
    done = run("report", str(folder.path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder.path / 'trials'}: is not there, but leaderboard")
    assert folder.leaderboard_file.read_bytes() == leaderboard
    (tmp_path / "elsewhere").rename(folder.path / "trials")
    assert len(folder.records()) == 8


@pytest.mark.parametrize("written", ["space.yaml", "recipe.yaml", "study.json"])
def test_a_study_that_was_cut_off_while_it_was_made_is_made_again(
    tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, text: str) -> None:
        if path.name == written:
            path.with_name(f".{path.name}.123").write_text(text[:3])
            raise KeyboardInterrupt
        write_whole(path, text)

    with monkeypatch.context() as killed:
        killed.setattr("miras_search.folder.write_whole", cut)
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path)
    # What it was to begin with is not for one that begins with nothing.
    (tmp_path / "out" / "warm_start.json").write_text("[]")
    with begin(tmp_path) as study:
        assert not study.folder.warm_start_file.exists()
        assert len(pretend(study)) == 8


def test_a_study_that_another_sweep_has_just_made_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, made = StudyFolder.lock, []

    def late(self: StudyFolder) -> object:
        if not made:
            made.append(True)
            made.append(begin(tmp_path).folder.identity["id"])
        return lock(self)

    monkeypatch.setattr(StudyFolder, "lock", late)
    assert begin(tmp_path).folder.identity["id"] == made[1]


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    study, other = begin(tmp_path), tmp_path / "other"
    with begin(tmp_path, f"out={other}", "seed=1") as found:
        pretend(found)
    monkeypatch.setattr("fcntl.flock", refuse)
    for use in (study.__enter__, lambda: merge([other, study.folder.path], tmp_path / "both")):
        with pytest.raises(UserError, match="lock: cannot be locked: Function not implemented"):
            use()


def test_a_disk_that_is_full_ends_the_sweep_and_what_it_cost_runs_again(tmp_path: Path) -> None:
    """No file may be larger than 8 KiB, and weights are."""
    arguments = command("sweep", *write(tmp_path), f"out={tmp_path / 'out'}", "trials=2")
    sweep = f"ulimit -f 8; exec {shlex.join(arguments)} size.width=32"
    # Nor may Python leave files of bytecode that end there.
    home = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    shell = ["bash", "-c", sweep]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=300, env=home)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {tmp_path}/out/trials/00000: File too large\n"
    assert not results(tmp_path / "out")
    again = run("sweep", *write(tmp_path), f"out={tmp_path / 'out'}", "trials=2", "size.width=32")
    assert again.returncode == 0, again.stderr
    assert [r["state"] for r in results(tmp_path / "out")] == ["complete"] * 2


def test_a_damaged_record_is_named_with_a_way_out(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        pretend(study)
    file = study.folder.record_file(3)
    record = file.read_text()
    for damage, told in (
        (record[:2], "Expecting property name"),
        ("[]", r"expected keys and values, got \[\]"),
        (record.replace('"seed": 0', '"seed": "x"', 1), "seed: expected a whole number, got 'x'"),
        (re.sub('"score": [0-9.]+', '"score": NaN', record), "score: expected a finite number"),
    ):
        file.write_text(damage)
        way_out = "Without the file, resume runs the trial again"
        with pytest.raises(UserError, match=rf"00003.*the record of a trial: {told}.*\. {way_out}"):
            begin(tmp_path).__enter__()


@pytest.mark.parametrize(
    "name", ["../../up", "/tmp/up", "a/b", "[red]x[/red] \u65e5\u672c", "..", "-"]
)
def test_a_study_lies_below_runs_whatever_its_name(tmp_path: Path, name: str) -> None:
    space, recipe = load_pair(*write(tmp_path, SPACE + f"name: {json.dumps(name)}\n"))
    folder = Path("runs") / study_name(space, recipe)
    assert folder.parent == Path("runs")
    assert folder.name.isascii()
    assert not folder.name.startswith((".", "-"))


def test_a_letter_with_an_accent_keeps_its_letter(tmp_path: Path) -> None:
    space, recipe = load_pair(*write(tmp_path, SPACE + "name: m\u00e9moire na\u00efve\n"))
    assert study_name(space, recipe).startswith("memoire-naive-")
    # wandb takes 128 letters for a table, and adds to the name.
    long = study_name(space, recipe.model_copy(update={"name": "long" * 100}))
    assert len(long) == 64
    assert long.endswith(study_name(space, recipe)[-6:])


def test_an_interrupted_sweep_shows_what_it_was_told_last(tmp_path: Path) -> None:
    """Its report and its log are written before the study is left."""
    with begin(tmp_path) as study:
        spec = study.ask()
        assert spec
        record = outcome(spec, "complete", None, score=0.5)
        record.write(study.folder.record_file(spec.number))
        study.tell(record)
        assert not study.folder.best_file.is_file()
        sweep._conclude(study, Console(file=io.StringIO()))
        assert study.folder.best_file.is_file()


def test_files_show_what_had_ended_when_a_study_was_left(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), begin(tmp_path) as study:
        spec = study.ask()
        assert spec
        study.tell(outcome(spec, "complete", None, score=0.5))
        raise KeyboardInterrupt
    assert len(study.folder.leaderboard_file.read_text().splitlines()) - 1 == 1
    assert study.folder.best_file.is_file()


def test_the_odometer_visits_every_path_once() -> None:
    odometer, seen = Odometer(), []
    while True:
        odometer.rewind()
        path = [odometer.choice("a", ("x", "y"))]
        path += [odometer.choice("b", ("p", "q", "r"))] if path[0] else []
        path += [odometer.choice("c", ("m", "n"))]
        seen.append(tuple(path))
        if not odometer.advance():
            break
    expected = [(0, c) for c in range(2)] + [(1, b, c) for b in range(3) for c in range(2)]
    assert seen == expected

"""Watching a study: what is read of its folder while a sweep writes there, and what is shown."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
import study_samples as samples
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from study_files import begin, command, run, write

from miras_search.errors import UserError
from miras_search.finals import standing
from miras_search.folder import StudyFolder
from miras_search.record import Point
from miras_search.report import sentences
from miras_search.study import Study
from miras_search.trial import TrialSpec, outcome
from miras_search.watch import Settings, Watched, watch


def end(study: Study, spec: TrialSpec, score: float | None = 0.5) -> None:
    state = "failed" if score is None else "complete"
    record = outcome(spec, state, None, score=score and score + spec.lr, seconds=10.0)
    record.write(study.folder.record_file(spec.number))
    study.tell(record)


def shown(folder: StudyFolder) -> str:
    """What is printed where there is no terminal."""
    screen = Console(file=io.StringIO(), width=120, force_terminal=False)
    watch(folder, Settings(), screen)
    return screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file with what is in it and when it was written."""
    return {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()}


def test_a_study_under_way(tmp_path: Path) -> None:
    with begin(tmp_path, "steps=6") as study:
        first, second, third = study.ask(), study.ask(), study.ask()
        assert first is not None
        assert second is not None
        assert third is not None
        end(study, first)
        study.hear(third.number, Point(step=2, seconds=1, train_loss=1, score=0.125))
        study.hear(third.number, Point(step=4, seconds=2, train_loss=1, score=0.25))
        before = files(study.folder.path)
        told = shown(study.folder)
        assert files(study.folder.path) == before
        assert "1/8 trials, 2 running" in told
        assert "720 an hour, about" in told  # two at a time, of ten seconds
        quick = study.records[0].model_copy(update={"seconds": 5.0})
        quick.write(study.folder.record_file(first.number))
        assert "1,440 an hour, about" in shown(study.folder)
        assert "last news" in told
        assert "best 0.5010" in told
        rows = {line.split()[0]: line.split() for line in told.splitlines() if "/6 " in line}
        assert rows.keys() == {str(second.number), str(third.number)}
        assert rows[str(second.number)][1:3] == ["0/6", "-"]
        assert rows[str(third.number)][1:3] == ["4/6", "0.2500"]
        end(study, second, None)
        end(study, third, 0.75)
        told = shown(study.folder)
        assert "3/8 trials, 1 failed, " in told
        assert "best 0.7510" in told
        assert "/6 " not in told


def test_runs_of_who_is_no_finalist_any_more_are_counted(tmp_path: Path) -> None:
    both = samples.recipe(finalists=2, seeds=3, trials=2)
    pair = enumerate(samples.variants()[:2])
    found = [samples.record(i, v, 0.9 - 0.1 * i, how=both) for i, v in pair]
    found += samples.finals(found, both, [0.5] * 6)
    one = both.model_copy(update={"finalists": 1})
    watched = Watched(samples.folder(tmp_path / "study", one, found))
    watched.look()
    assert watched.complete
    assert watched.total == len(found) == 8


def test_it_is_complete_when_there_is_nothing_more_to_ask(tmp_path: Path) -> None:
    """Variants of the search, then two finalists on three seeds."""
    with begin(tmp_path, "finalists=2", "seeds=3", "trials=4") as study:
        watched, states = Watched(study.folder), []
        while (spec := study.ask()) is not None:
            watched.look()
            states.append(watched.complete)
            assert [r.spec.number for r in watched.running] == [spec.number]
            assert watched.total == study.total == 10
            end(study, spec, 0.5 if spec.phase == "search" else 0.75)
        watched.look()
        assert watched.complete
        assert states == [False] * 10
        assert not watched.running
        # The best of the search as such, and the finals by their means.
        records = study.folder.records()
        best = max(r.score for r in records if r.phase == "search" and r.score is not None)
        told = shown(study.folder)
        assert f"best {best:.4f}" in told
        assert "Finals" in told
        outcome = standing(records, study.folder.recipe)
        assert outcome is not None
        assert f"{outcome.first.mean:.4f}" in told
        verdict = sentences.verdict(study.records, outcome, study.folder.recipe)
        assert verdict in " ".join(told.split())


def test_the_journal_is_an_optuna_study(tmp_path: Path) -> None:
    """As optuna-dashboard opens it."""
    with begin(tmp_path) as study:
        while (spec := study.ask()) is not None:
            end(study, spec, None if spec.number == 3 else 0.5)
    storage = JournalStorage(JournalFileBackend(str(study.folder.journal_file)))
    loaded = optuna.load_study(study_name=study.folder.identity["name"], storage=storage)
    scores = {t.number: t.value for t in loaded.trials}
    assert scores == {r.number: r.score for r in study.folder.records()}
    assert len(scores) == 8


def test_a_copy_of_a_trial_is_none(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        spec = study.ask()
        assert spec is not None
        end(study, spec)
    trials = study.folder.path / "trials"
    for name in ("copy", "00000.bak", "0"):
        shutil.copytree(study.folder.trial(0), trials / name)
    assert len(study.folder.records()) == 1
    assert "1/8 trials" in shown(study.folder)
    # Nor is the record of another trial.
    shutil.copytree(study.folder.trial(0), study.folder.trial(1))
    with pytest.raises(UserError, match="is of trial 0: expected that of trial 1"):
        study.folder.records()
    assert "1 unreadable" in shown(study.folder)


def test_what_is_half_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        first, second = study.ask(), study.ask()
        assert first is not None
        assert second is not None
        end(study, first)
    journal, record = study.folder.journal_file, study.folder.record_file(0)
    whole = {journal: journal.read_bytes(), record: record.read_bytes()}
    for cut in (2, 40, len(whole[record]) - 3):
        journal.write_bytes(whole[journal][:-cut])
        record.write_bytes(whole[record][:cut])
        assert "0/8 trials" in shown(study.folder)
        assert "1 unreadable" in shown(study.folder)
    watched = Watched(study.folder)
    watched.look()
    for file, content in whole.items():
        file.write_bytes(content)
    watched.look()
    assert (len(watched.records), watched.unread) == (1, 0)
    assert [r.spec.number for r in watched.running] == [1]
    journal.unlink()
    assert "1/8 trials" in shown(study.folder)
    assert not journal.exists()
    journal.write_bytes(b"{damage\n" + whole[journal])
    with pytest.raises(UserError, match="expected an Optuna journal"):
        shown(study.folder)


def test_the_first_ten_variants(tmp_path: Path) -> None:
    how = samples.recipe()
    folder = samples.folder(tmp_path / "study", how, samples.study(how))
    rows = [line.split()[0] for line in shown(folder).splitlines() if line.strip()[:1].isdigit()]
    assert [row for row in rows if row.isdecimal()] == [str(i + 1) for i in range(10)]


def on_a_terminal(*arguments: str, stop: str | None = None) -> tuple[int, str]:
    """The exit code and output on a real terminal; with Ctrl-C once `stop` is shown."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        command(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    out = ""
    while True:
        try:
            out += os.read(ours, 4096).decode(errors="replace")
        except OSError:  # Linux: the other end is closed
            break
        if stop is not None and stop in out:
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            stop = None
    os.close(ours)
    return process.wait(timeout=60), out


@pytest.mark.slow  # a sweep and its watcher, two processes that import torch
def test_it_follows_a_sweep_and_ends_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("sweep", *write(tmp_path), f"out={out}", "workers=1", "trials=2", "steps=2")
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command(*arguments), stdout=quiet, stderr=quiet) as sweep:
        while not (out / "study.json").exists():
            assert sweep.poll() is None
            time.sleep(0.05)
        code, told = on_a_terminal("watch", str(out), "every=0.1")
        assert sweep.wait(timeout=60) == 0
    assert code == 0
    assert "1 running" in told
    assert "2/2 trials" in told
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
    again = run("watch", str(out))
    assert again.returncode == 0
    assert again.stdout.startswith("2/2 trials\n")
    assert "\x1b" not in again.stdout


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with begin(tmp_path) as study:
        assert study.ask() is not None
    code, told = on_a_terminal("watch", str(tmp_path / "out"), stop="1 running")
    assert code == 130
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")
    assert "Traceback" not in told


@pytest.mark.parametrize("setting", ["every=0", "every=soon", "evry=2", "2"])
def test_a_wrong_setting_is_told(tmp_path: Path, setting: str) -> None:
    how = samples.recipe()
    folder = samples.folder(tmp_path / "study", how, samples.study(how))
    done = run("watch", str(folder.path), setting)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "every" in done.stderr or "key=value" in done.stderr

"""Workers of this machine, and a sweep by them that is cut off in the middle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from study_files import Silent, begin, command, results, run, write

from miras_search import deaths
from miras_search.executor import cores, local, trials_at_once
from miras_search.folder import StudyFolder
from miras_search.recipe import load_pair
from miras_search.record import Point, TrialRecord


def test_files_show_what_has_ended_while_the_next_trial_runs(tmp_path: Path) -> None:
    shown: dict[int, int] = {}

    class Reader(Silent):
        def point(self, number: int, point: Point) -> None:
            shown[number] = len(study.folder.leaderboard_file.read_text().splitlines()) - 1

    with begin(tmp_path, "trials=3") as study:
        local.execute(study, 1, Reader())
    assert shown == {0: 0, 1: 1, 2: 2}
    assert len(study.folder.leaderboard_file.read_text().splitlines()) - 1 == 3


def test_a_killed_worker_costs_its_trial_alone(tmp_path: Path) -> None:
    class Killer(Silent):
        def point(self, number: int, point: object) -> None:
            if number == 1:
                for child in multiprocessing.active_children():
                    child.kill()

    with begin(tmp_path, "trials=3") as study:
        local.execute(study, 1, Killer())
    states = [r["state"] for r in results(tmp_path / "out")]
    assert states == ["complete", "failed", "complete"]
    killed = StudyFolder(tmp_path / "out").records()[1]
    assert (
        killed.reason == "the worker process was killed (signal 9), and not because memory ran out"
    )
    assert killed.seconds > killed.curve[0].seconds > 0


def test_a_worker_that_dies_idle_costs_nothing(tmp_path: Path) -> None:
    """While the last trial of the search runs, others wait for the finals."""

    class Killer(Silent):
        def finished(self, record: TrialRecord) -> None:
            super().finished(record)
            if record.number == 0:
                for child in multiprocessing.active_children():
                    child.kill()
                    child.join()

    with begin(tmp_path, "trials=3") as study:
        local.execute(study, 1, Killer())
    assert [r["state"] for r in results(tmp_path / "out")] == ["complete"] * 3
    # Killed between the look at it and the trial that it is given.
    worker = local.Worker(1)
    worker.process.kill()
    worker.process.join()
    with begin(tmp_path, "trials=4") as study:
        spec = study.ask()
        assert spec
        worker.give(spec)
        number, told = worker.hear()
        assert isinstance(told, TrialRecord)
        assert (number, told.state, worker.alive) == (3, "failed", False)
        # What was told to stop is stopped, whatever it dies of.
        study.folder.record_file(3).unlink()
        worker.give(spec)
        worker.answer("it was not among the best")
        _, told = worker.hear()
    assert isinstance(told, TrialRecord)
    assert (told.state, told.reason) == ("pruned", "it was not among the best")
    worker.stop()


def test_whether_memory_ran_out_is_asked_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(deaths, "_COUNTERS", counters)
    assert deaths.killed_for_memory() is None
    assert deaths.died("it", -signal.SIGKILL, None)[0] == "out of memory"
    counters.write_text("pgfault 7\noom_kill 3\nswap_ra 0\n")
    before = deaths.killed_for_memory()
    assert before == 3
    assert deaths.died("it", -signal.SIGKILL, before)[0] == "failed"
    counters.write_text("oom_kill 4\n")
    assert deaths.died("it", -signal.SIGKILL, before)[0] == "out of memory"
    assert deaths.died("it", -signal.SIGSEGV, before) == ("failed", "it died with exit code -11")


@pytest.mark.parametrize(
    ("count", "each", "named", "expected"),
    [
        (0, 1, None, [None, None]),
        (3, 1, None, ["0", "1", "2", "0", "1"]),
        (5, 2, None, ["0,1", "2,3", "0,1"]),
        (2, 1, "5,GPU-8932f937", ["5", "GPU-8932f937", "5"]),
    ],
)
def test_each_worker_is_given_gpus_of_its_own(count, each, named, expected, monkeypatch) -> None:
    """As far as there are enough; and whoever follows one that died is given those that it had."""
    given = []
    monkeypatch.setattr(local, "_start", lambda process: given.append(process._args[2]))
    if named is None:
        monkeypatch.delenv(local.VISIBLE, raising=False)
    else:
        monkeypatch.setenv(local.VISIBLE, named)
    cards, crew = local.shares(count, each), []
    for _ in expected:
        crew.append(local.Worker(1, local.least_used(cards, crew)))
    assert [environment.get(local.VISIBLE) for environment in given] == expected
    lost = crew.pop(1)
    assert local.least_used(cards, [*crew, *crew[:1]]) == lost.cards
    for worker in (lost, *crew):
        worker.connection.close()


def test_as_many_trials_run_as_there_are_gpus_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    for changes, expected in (
        ([], 8),
        (["devices=3"], 2),
        (["devices=8"], 1),
        (["accelerator=cpu"], cores()),
        (["workers=11"], 11),
    ):
        _, recipe = load_pair(*write(tmp_path), ["workers=null", *changes])
        assert trials_at_once(recipe) == expected


def finished(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in (folder / "trials").glob("*/record.json")}


@pytest.mark.slow  # imports everything anew
def test_what_workers_are_forked_from_has_asked_nothing_of_an_accelerator() -> None:
    """A process forked from one that has cannot use CUDA."""
    code = """
import importlib, torch
from miras_search.executor.local import _PRELOADED
def refuse(*arguments, **named): raise SystemExit("asked")
for where in (torch.cuda, torch.accelerator):
    for name in ("is_available", "device_count", "init", "current_device", "_lazy_init"):
        setattr(where, name, refuse)
for name in _PRELOADED: importlib.import_module(name)
"""
    assert subprocess.run([*command()[:1], "-c", code], check=False).returncode == 0


def server_of(process: subprocess.Popen[str]) -> psutil.Process:
    """What its workers are forked from, as soon as it is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if any("forkserver" in word for word in child.cmdline()):
                    return child
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.slow  # imports everything anew
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize("how", ["the server is killed", "ctrl-c"])
def test_what_happens_to_the_server_while_it_imports_ends_nothing(tmp_path: Path, how: str) -> None:
    arguments = ("sweep", *write(tmp_path), f"out={tmp_path / 'out'}", "workers=2", "steps=2")
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = server_of(process)
    time.sleep(2)  # of the ten that it imports
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        server.kill()
    _, errors = process.communicate(timeout=180)
    if how == "ctrl-c":
        assert (process.returncode, errors) == (130, "stopped: run it again to go on\n")
    else:
        assert (process.returncode, errors) == (0, "")
        assert [r["state"] for r in results(tmp_path / "out")] == ["complete"] * 8


def wait_for(process: subprocess.Popen[str], folder: Path, trials: int) -> None:
    deadline = time.monotonic() + 120
    while len(finished(folder)) < trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_sweep_cut_off_in_the_middle_loses_and_repeats_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    arguments = ("sweep", *write(tmp_path), f"out={out}", "steps=160", "evaluate=16", "workers=2")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(process, out, 3)
    process.send_signal(how)
    _, errors = process.communicate(timeout=180)
    before = finished(out)
    assert 3 <= len(before) < 8
    if how == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert "run it again to go on" in errors
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    after = finished(out)
    assert all(r["state"] == "complete" for r in results(out))
    assert before.items() <= after.items()
    assert sorted(r["number"] for r in results(out)) == list(range(8))
    assert len({(r["digest"], r["lr"]) for r in results(out)}) == 8
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(out / "journal.log"))
    )
    study = optuna.load_study(study_name=None, storage=storage)
    told = [t.state for t in study.trials if "spec" in t.user_attrs]
    assert told == [optuna.trial.TrialState.COMPLETE] * 8
    assert all(t.intermediate_values for t in study.trials if "spec" in t.user_attrs)

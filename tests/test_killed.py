"""kill -9 at any moment: no finished trial is lost, changed or run again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from study_files import apart, command, results, write

KILLS = 50
"""Of each executor."""
TRIALS = 24


def records(out: Path) -> dict[str, bytes]:
    """What is written of finished trials."""
    return {file.parent.name: file.read_bytes() for file in out.glob("trials/*/record.json")}


def begin(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A sweep with a process group of its own."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(*arguments), stdout=quiet, stderr=quiet, start_new_session=True)


def kill(process: subprocess.Popen[bytes], everything: bool) -> None:
    """The driver alone, or all it started at once, as when a machine loses power.

    Whatever trains must be gone soon, since it could still write; Ray's agents may take their time.
    """
    family = {
        p: " ".join(p.cmdline()) for p in psutil.Process(process.pid).children(recursive=True)
    }
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    for left in alive:
        # Not yet, or already, under the name that it gives itself.
        assert re.search(r"Agent|/ray/(dashboard|.*runtime_env)/agent", family[left]), family[left]
        left.kill()


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path: Path, executor: str) -> None:
    """A study is killed until it has ended, then the next one, and each comes out as one that was
    left alone."""
    files = write(tmp_path)
    how = [f"trials={TRIALS}", "lr={log_uniform: [1e-4, 1e-1]}", "sampler=random", "workers=2"]
    how += ["steps=60", f"executor={executor}"]
    began = time.monotonic()
    alone = apart("sweep", *files, f"out={tmp_path / 'alone'}", *how)
    longest = time.monotonic() - began
    assert alone.returncode == 0, alone.stderr
    expected = results(tmp_path / "alone")
    rng = random.Random(0)
    kills = studies = amid = 0
    while kills < KILLS:
        out = tmp_path / str(studies)
        arguments = ["sweep", *files, f"out={out}", *how]
        before: dict[str, bytes] = {}
        while kills < KILLS and len(before) < TRIALS:
            process, began, delay = begin(arguments), time.monotonic(), rng.uniform(0, longest)
            while process.poll() is None and time.monotonic() < began + delay:
                time.sleep(0.005)
            if process.poll() is None:
                kill(process, everything=rng.random() < 0.5)
                kills += 1
            after = records(out)
            assert before.items() <= after.items()
            amid += len(before) < len(after) < TRIALS
            before = after
        last = apart(*arguments)
        assert last.returncode == 0, last.stderr
        assert before.items() <= records(out).items()
        assert results(out) == expected
        studies += 1
    # Many kills came where something had just been done and something was left.
    assert amid >= KILLS // 5


def parts(driver: int) -> list[psutil.Process]:
    """The server of a sweep and the workers, also those whose server is gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == driver and "forkserver" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_part_that_is_killed_costs_its_trial_alone(tmp_path: Path) -> None:
    """Workers, and the server that they are forked from, die while the sweep goes on."""
    files = write(tmp_path)
    how = ["trials=12", "sampler=random", "workers=2", "steps=400", "evaluate=50"]
    how += ["lr={log_uniform: [1e-4, 1e-1]}"]
    alone = apart("sweep", *files, f"out={tmp_path / 'alone'}", *how)
    assert alone.returncode == 0, alone.stderr
    out = tmp_path / "out"
    process, rng, killed = begin(["sweep", *files, f"out={out}", *how]), random.Random(0), []
    while process.poll() is None and len(killed) < 5:
        time.sleep(rng.uniform(0.1, 1))
        victims = parts(process.pid)
        # What happens to a server before there is a trial is another test.
        if records(out) and victims:
            victim = rng.choice(victims)
            victim.kill()
            killed.append(victim.pid)
    assert process.wait(timeout=600) == 0
    assert len(killed) == 5
    expected, found = results(tmp_path / "alone"), results(out)
    assert [r["number"] for r in found] == list(range(12))
    lost = [r for r in found if r["state"] != "complete"]
    assert {r["state"] for r in lost} <= {"out of memory", "failed"}
    assert len(lost) <= 5
    assert all(
        mine == whole for mine, whole in zip(found, expected, strict=True) if mine not in lost
    )

"""The live view: what it counts, what it prints where there is no terminal, and what it leaves."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import study_samples as samples
from rich.console import Console

from miras_search.record import Point
from miras_search.view import Progress

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def console(*, terminal, width=100):
    return Console(
        file=io.StringIO(),
        width=width,
        height=24,
        force_terminal=terminal,
        color_system=None,
        _environ={"TERM": "xterm"},
    )


def drawn(view, width=100):
    screen = console(terminal=False, width=width)
    screen.print(view.table())
    return screen.file.getvalue()


def point(step, score):
    return Point(step=step, seconds=1.0, train_loss=1.0, score=score)


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_lines_where_there_is_no_terminal(task):
    how, screen = samples.recipe(task), console(terminal=False, width=40)
    first, second, third = samples.variants()[:3]
    better, worse = (0.9, 0.5) if task == "mqar" else (2.0, 3.0)
    with Progress(4, [], how, screen) as view:
        for number, variant in enumerate((first, second, third)):
            view.started(samples.spec(number, variant, how, "x"))
        view.point(0, point(20, 0.1))
        view.finished(samples.record(1, second, None, how=how))
        view.finished(samples.record(0, first, better, how=how))
        view.finished(samples.record(2, third, worse, how=how))
        view.finished(samples.record(3, first, worse, how=how, phase="finals"))
    failed, *completed, final = screen.file.getvalue().splitlines()
    assert failed.startswith("1/4  trial 1  failed: <script>")
    assert "no score yet" in failed
    assert "\x1b" not in failed
    assert str(second) in failed
    for line, score, number in zip(completed, (better, worse), (0, 2), strict=True):
        assert f"trial {number}  complete {score:.4f}  best {better:.4f}" in line
    assert completed[0].endswith(str(first))
    assert f"final 3  complete {worse:.4f}  best of the search {better:.4f}" in final


def test_resuming_says_so_once():
    how, screen = samples.recipe(), console(terminal=False)
    with Progress(9, samples.study(how)[:3], how, screen) as view:
        assert view.time_left() is not None
    assert screen.file.getvalue() == "3/9 trials were finished before.\n"


def test_the_caller_may_go_on_with_its_list():
    how, known = samples.recipe(), []
    with Progress(2, known, how, console(terminal=False)) as view:
        known.append(samples.record(0, samples.variants()[0], 0.5))
        view.finished(known[0])
    assert len(view.records) == 1


@pytest.mark.parametrize("width", [80, 120])
def test_the_table(width):
    how, variants = samples.recipe(), samples.variants()
    view = Progress(30, samples.study(how)[-8:], how, console(terminal=True))
    for number in range(3):
        view.started(samples.spec(100 + number, variants[-2 - number], how, "x"))
    view.point(100, point(40, 0.4321))
    view.point(999, point(40, 0.9999))
    out = drawn(view, width)
    assert max(map(len, out.splitlines())) <= width
    assert "8/30 trials, 3 running, 4 failed" in out
    assert "left" in out
    (row,) = [line for line in out.splitlines() if line.startswith("  100")]
    assert "40/100" in row
    assert "0.4321" in row
    assert "0/100" in out
    assert "0.9999" not in out
    assert "best" in out


def test_a_hundred_workers_fit_a_screen():
    how = samples.recipe()
    view = Progress(500, [], how, console(terminal=True))
    for number in range(100):
        view.started(samples.spec(number, samples.variants()[0], how, "x"))
    out = drawn(view)
    assert len(out.splitlines()) < 24
    assert "84 more are running" in out
    assert "left" not in out  # nothing has finished: nothing is known


def test_time_left_is_the_mean_of_what_finished(monkeypatch):
    how, (first, *_) = samples.recipe(), samples.variants()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    done = [samples.record(n, first, 0.5, how=how) for n in range(2)]
    done = [record.model_copy(update={"seconds": 10.0}) for record in done]
    view = Progress(8, done, how, console(terminal=False))
    assert view.time_left() == 60  # 6 trials of 10 s, one at a time
    view.started(samples.spec(2, first, how, "x"))
    view.started(samples.spec(3, first, how, "x"))
    assert view.time_left() == 30  # two at a time
    now[0] += 5
    assert view.time_left() == 25
    now[0] += 50
    assert view.time_left() == 20  # those that run are late, never less than nothing
    view.total = 0
    assert view.time_left() == 0


def test_a_terminal_is_given_back():
    how, screen = samples.recipe(), console(terminal=True)
    first = samples.variants()[0]

    def sweep():
        with Progress(2, [], how, screen) as view:
            view.started(samples.spec(0, first, how, "x"))
            view.finished(samples.record(0, first, None, how=how))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        sweep()
    out = screen.file.getvalue()
    assert out.index(HIDE) < out.rindex(SHOW)
    assert "trial 0 failed: <script>" in out
    assert "\x1b[31m" not in out
    assert sys.stdout.__class__.__module__ != "rich.file_proxy"


def test_a_dumb_terminal_gets_lines():
    how = samples.recipe()
    screen = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with Progress(1, [], how, screen) as view:
        view.finished(samples.record(0, samples.variants()[0], 0.5))
    assert HIDE not in screen.file.getvalue()
    assert screen.file.getvalue().count("\n") == 1


SWEEP = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background
sys.path.insert(0, {tests!r})
import study_samples as samples
from rich.console import Console
from miras_search.view import Progress
how = samples.recipe()
with Progress(5, [], how, Console()) as view:
    view.started(samples.spec(0, samples.variants()[0], how, "x"))
    view.finished(samples.record(0, samples.variants()[0], 0.5))
    print("asleep")
    time.sleep(300)
"""


def test_ctrl_c_on_a_real_terminal():
    ours, theirs = pty.openpty()
    code = SWEEP.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        out = ""
        # Until it sleeps: Python drops an interrupt that comes in a finaliser.
        while "1/5 trials" not in out or "asleep" not in out:
            out += os.read(ours, 4096).decode()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not read:
                break
            out += read.decode()
        assert process.wait(timeout=180) != 0
    os.close(ours)
    assert out.index(HIDE) < out.rindex(SHOW)
    assert "KeyboardInterrupt" in out[out.rindex(SHOW) :]

"""Worker processes on this machine: each imports torch once and then runs trial after trial."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from miras_search.deaths import died, killed_for_memory
from miras_search.errors import UserError
from miras_search.executor import cores, gpus
from miras_search.folder import RECORD
from miras_search.interrupts import deaf, end_with
from miras_search.record import Point, TrialRecord
from miras_search.trial import Pruned, TrialSpec, outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from multiprocessing.process import BaseProcess

    from miras_search.study import Study
    from miras_search.view import Progress

# A fork of this process would inherit the locks of torch's threads. On Linux workers are forked
# from a server that has imported what takes long and computed nothing; elsewhere each imports it.
_CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_PRELOADED = ["lightning.pytorch"]
"""Nothing of ours: the server's path need not be that of this process."""


VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Names the GPUs of a process."""


def execute(study: Study, workers: int, view: Progress) -> None:
    """Run a study until it has nothing more to ask.

    A worker that dies takes its trial with it: the trial is recorded as failed and another
    worker takes its place. Whatever ends this function ends the workers.
    """
    threads = max(1, cores() // workers)
    cards = shares(gpus(study.recipe), study.recipe.devices)
    crew: list[Worker] = []
    try:
        while True:
            for worker in [w for w in crew if w.spec is None and not w.process.is_alive()]:
                crew.remove(worker)
                worker.stop()
            idle = [worker for worker in crew if worker.spec is None]
            while (idle or len(crew) < workers) and (spec := study.ask()) is not None:
                if not idle:
                    idle.append(Worker(threads, least_used(cards, crew)))
                    crew += idle
                idle.pop().give(spec)
                view.total = study.total
                view.started(spec)
            busy = {worker.connection: worker for worker in crew if worker.spec is not None}
            study.publish()
            if not busy:
                return
            for worker in [busy[connection] for connection in wait(busy)]:  # pyright: ignore
                number, told = worker.hear()
                if isinstance(told, Point):
                    worker.answer(study.hear(number, told))
                    view.point(number, told)
                    continue
                if not worker.alive:
                    crew.remove(worker)
                study.tell(told)
                view.finished(told)
    finally:
        for worker in crew:
            worker.stop()


class Worker:
    """A process that runs one trial at a time, on `cards` where it is given some, and the pipe to
    it."""

    def __init__(self, threads: int, cards: str | None = None) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.cards = cards
        # The server keeps the environment that it began with.
        environment = dict(os.environ) | ({VISIBLE: cards} if cards else {})
        given = (theirs, threads, environment)
        self.process = _CONTEXT.Process(target=_serve, args=given, daemon=True)
        _start(self.process)
        theirs.close()
        self.spec: TrialSpec | None = None
        self.curve: list[Point] = []
        """Of the running trial."""
        self.stopped: str | None = None
        """Why the running trial was told to stop, if it was."""
        self.alive = True

    def give(self, spec: TrialSpec) -> None:
        """Start a trial."""
        self.spec, self.since, self.curve, self.stopped = spec, time.monotonic(), [], None
        self.kills = killed_for_memory()
        with suppress(OSError):  # of a dead worker `hear` tells
            self.connection.send(spec)

    def answer(self, stop: str | None) -> None:
        """What follows a point: go on, or stop and why."""
        self.stopped = stop
        with suppress(OSError):  # of a dead worker `hear` tells
            self.connection.send(stop)

    def hear(self) -> tuple[int, Point | TrialRecord]:
        """The number of the running trial, and its next point or, at its end, its record.

        Raises:
            OSError: what it found cannot be written; see `trial.run`.
        """
        assert self.spec is not None
        try:
            told = self.connection.recv()
        except (EOFError, OSError):
            told = self._lost(self.spec)
        if isinstance(told, OSError):
            raise told
        number = self.spec.number
        if isinstance(told, TrialRecord):
            self.spec = None
        else:
            self.curve.append(told)
        return number, told

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def _lost(self, spec: TrialSpec) -> TrialRecord:
        """The record of a trial whose process died: its own if it came that far."""
        self.alive = False
        self.process.join()
        file = Path(spec.folder) / RECORD
        if file.is_file():
            return TrialRecord.read(file)
        state, reason = died("the worker process", self.process.exitcode or 0, self.kills)
        if self.stopped is not None:
            state, reason = "pruned", self.stopped
        seconds = time.monotonic() - self.since
        record = outcome(spec, state, reason, curve=tuple(self.curve), seconds=seconds)
        record.write(file)
        return record


def shares(count: int, each: int) -> list[str]:
    """The GPUs of this machine in parts of `each`, in the words of CUDA_VISIBLE_DEVICES: those that
    it names, if it is set."""
    named = os.environ.get(VISIBLE)
    every = named.split(",") if named else [*map(str, range(count))]
    return [",".join(every[i : i + each]) for i in range(0, count - each + 1, each)]


def least_used(cards: Sequence[str], crew: Iterable[Worker]) -> str | None:
    """Those that the fewest workers have; None where there are none."""
    taken = [worker.cards for worker in crew]
    return min(cards, key=taken.count, default=None)


def _start(process: BaseProcess) -> None:
    """Start a worker.

    Raises:
        UserError: the server that it is forked from was killed, and so was the next one.
    """
    if _CONTEXT.get_start_method() != "forkserver":
        process.start()
        return
    for _ in range(2):
        _serve_forks()
        with suppress(EOFError, ConnectionError):
            process.start()
            return
    raise UserError("no worker can be started: what it is forked from was killed twice")


def _serve_forks() -> None:
    """See that the server is there, which Ctrl-C is not for."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # which would unblock the signal
    forkserver.set_forkserver_preload(_PRELOADED)
    with deaf():
        forkserver.ensure_running()


def _serve(connection: Connection, threads: int, environment: dict[str, str]) -> None:
    """The life of a worker process."""
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.join)
    import torch

    torch.set_num_threads(threads)

    def tell(what: Point | TrialRecord | OSError) -> None:
        try:
            connection.send(what)
            stop = connection.recv() if isinstance(what, Point) else None
        except (OSError, EOFError):  # nobody listens: no fault of the trial, which will run again
            os._exit(1)
        if stop is not None:
            raise Pruned(stop)

    while True:
        try:
            spec = connection.recv()
        except EOFError:
            return
        try:
            record = run(spec, tell)
        except OSError as error:
            record = error
        tell(record)

"""Several processes of one machine that train a trial together, each on its share of every batch.

The process of the trial is the first; it starts the others, which end with it. Each has the whole
model, and Lightning's DDP averages their gradients.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miras_search.deaths import died, killed_for_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miras_search.record import Ending
    from miras_search.trial import TrialSpec

LOOPBACK = "127.0.0.1"
THREADS = "OMP_NUM_THREADS"
GRACE = 20.0
"""Seconds in which the first process notices by itself that another one has ended."""


@dataclass(frozen=True)
class Rank:
    """One of the processes of a trial."""

    index: int = 0
    count: int = 1
    port: int = 0
    """Of this machine, where they meet."""

    @property
    def leads(self) -> bool:
        """Whether it is the first."""
        return self.index == 0

    @property
    def strategy(self) -> Any:
        """For Lightning's Trainer."""
        if self.count == 1:
            return "auto"
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.pytorch.strategies import DDPStrategy

        rank = self

        class Started(LightningEnvironment):
            """The processes are there already."""

            @property
            def creates_processes_externally(self) -> bool:
                return True

            @property
            def main_address(self) -> str:
                return LOOPBACK

            @property
            def main_port(self) -> int:
                return rank.port

            def local_rank(self) -> int:
                return rank.index

        # Buffers are constants.
        return DDPStrategy(cluster_environment=Started(), broadcast_buffers=False)

    def told(self, what: str | None) -> str | None:
        """What the first process says here, in every process."""
        if self.count == 1:
            return what
        from torch import distributed

        said = [what]
        distributed.broadcast_object_list(said)
        return said[0]


ALONE = Rank()
"""The process of a trial that has no other."""


class Failed(Exception):
    """Another process of the trial did not end well: its state and its reason."""


@contextmanager
def crew(spec: TrialSpec, count: int, close: Callable[[Ending, str], object]) -> Iterator[Rank]:
    """The first of `count` processes, while the others are there.

    `close` writes the record of a trial whose first process waits for ever for one that is gone:
    it ends then, at once.

    Raises:
        Failed: what another one ended with, in place of the error that this makes here.
    """
    if count == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    threads, named = torch.get_num_threads(), os.environ.get(THREADS)
    torch.set_num_threads(max(1, threads // count))
    # Where nothing is said, Lightning takes all cores, and only for the first trial of a process.
    os.environ[THREADS] = str(torch.get_num_threads())
    with socket.create_server((LOOPBACK, 0)) as found:
        port = found.getsockname()[1]
    others: list[Other] = []
    try:
        for index in range(1, count):
            others.append(Other(spec, Rank(index, count, port), close))
        yield Rank(0, count, port)
    except Exception as error:
        for other in others:
            other.join(timeout=1)
        # The others fail because the first of them did.
        for other in sorted(others, key=lambda other: other.ended):
            if other.failure:
                raise Failed(*other.failure) from error
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for other in others:
            other.end()
        torch.set_num_threads(threads)
        os.environ.pop(THREADS)
        os.environ |= {THREADS: named} if named is not None else {}


class Other(threading.Thread):
    """A process that is not the first, and the thread that waits for its end."""

    def __init__(self, spec: TrialSpec, rank: Rank, close: Callable[[Ending, str], object]) -> None:
        import torch

        super().__init__(daemon=True)
        self.rank, self.close = rank, close
        self.failure: tuple[Ending, str] | None = None
        self.ended = math.inf
        self.kills = killed_for_memory()
        self.released = threading.Event()
        given = (rank.index, rank.count, rank.port, torch.get_num_threads())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "miras_search.ranks", *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdin
        self.process.stdin.write(spec.model_dump_json() + "\n")
        self.process.stdin.flush()
        self.start()

    def run(self) -> None:
        """Where the first process waits for this one for ever, the trial ends with it."""
        assert self.process.stdout
        with self.process.stdout as out:
            told = out.read()
        code, self.ended = self.process.wait(), time.monotonic()
        if self.released.is_set() or not code:
            return
        who = f"process {self.rank.index + 1} of {self.rank.count}"
        state, reason = json.loads(told) if told else died("it", code, self.kills)
        self.failure = (state, f"{who}: {reason}")
        if not self.released.wait(GRACE):
            self.close(*self.failure)
            os._exit(1)

    def end(self) -> None:
        """It is no longer needed."""
        self.released.set()
        self.process.kill()
        self.process.wait()
        self.join()
        assert self.process.stdin
        self.process.stdin.close()


def main() -> None:
    """The life of a process that is not the first: the spec comes in, a failure goes out."""
    import signal

    import torch

    from miras_search.interrupts import end_with
    from miras_search.trial import TrialSpec, follow

    index, count, port, threads = map(int, sys.argv[1:])
    # Ctrl-C reaches every process of the terminal; the first decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    torch.set_num_threads(threads)
    spec = TrialSpec.model_validate_json(sys.stdin.readline())
    end_with(lambda: os.read(0, 1))  # the first process holds the other end
    failure = follow(spec, Rank(index, count, port))
    if failure:
        json.dump(failure, out)
        out.close()
        os._exit(1)


if __name__ == "__main__":
    main()

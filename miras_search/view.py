"""What a sweep shows while it runs: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miras_search.folder import ranked
from miras_search.report import text
from miras_search.report.leaderboard import variant_of
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence, Sized
    from typing import Self

    from rich.console import Console, RenderableType

    from miras_search.recipe import Recipe
    from miras_search.record import Point, TrialRecord
    from miras_search.trial import TrialSpec

REFRESHES = 2
"""A second; more would only flicker."""
SHOWN = 16
"""Running trials on the screen."""


@dataclass
class Running:
    """A trial that was started and has not finished."""

    spec: TrialSpec
    variant: str
    began: float
    """On the clock of `time.monotonic`."""
    step: int = 0
    score: float | None = None
    """Of the last evaluation, at `step`."""


class Progress:
    """A context manager that executors tell what happens, and that shows it.

    Calls come from one thread. Leaving it, however that happens, gives the terminal back.
    """

    def __init__(
        self, total: int, records: Iterable[TrialRecord], recipe: Recipe, console: Console
    ) -> None:
        self.total, self.recipe, self.console = total, recipe, console
        self.records = list(records)
        """Finished trials, those of an earlier process included."""
        self.running: dict[int, Running] = {}
        self._best = self._first(self.records)
        self._workers = 1
        self._began = time.monotonic()
        self._live = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        # A terminal that cannot move its cursor would show every refresh as new lines.
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(
                console=self.console,
                get_renderable=self.table,
                refresh_per_second=REFRESHES,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
        elif self.records:
            self._say(f"{len(self.records)}/{self.total} trials were finished before.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, spec: TrialSpec) -> None:
        """A worker took a trial."""
        self.running[spec.number] = Running(
            spec, str(Variant.from_dict(spec.variant)), time.monotonic()
        )
        self._workers = max(self._workers, len(self.running))

    def point(self, number: int, point: Point) -> None:
        """A running trial was evaluated."""
        if run := self.running.get(number):
            run.step, run.score = point.step, point.score

    def lost(self, spec: TrialSpec) -> None:
        """A trial died with its worker and will run again."""
        self.running.pop(spec.number, None)
        self._say(f"{_name(spec)} was lost: its worker process or its node died; it runs again")

    def finished(self, record: TrialRecord) -> None:
        """A trial ended, one way or another."""
        self.running.pop(record.number, None)
        self.records.append(record)
        self._best = self._first([*([self._best] if self._best else []), record])
        if self._live is None:
            self._say(self._line(record))
        elif record.score is None:
            self._say(f"{_name(record)} {_ending(record)}")

    def time_left(self) -> float | None:
        """Seconds until the last trial, as if the rest were like those that finished."""
        return time_left(self.records, [*self.running.values()], self.total, self._workers)

    def table(self) -> RenderableType:
        """What the terminal shows."""
        # Drawn from another thread: what is iterated over here must not change meanwhile.
        running = [*self.running.values()]
        told = [f"{text.duration(time.monotonic() - self._began)} elapsed"]
        left = self.time_left()
        if left is not None and left >= 1:
            told.append(f"about {text.duration(left)} left")
        counted = counts(self.records, running, self.total)
        return table([*counted, *told], self._best, running, self.recipe)

    def _line(self, record: TrialRecord) -> str:
        best = "best of the search" if record.phase == "finals" else "best"
        best = f"{best} {text.score(self._best.score)}" if self._best else "no score yet"
        told = [f"{len(self.records)}/{self.total}", _name(record), _ending(record)]
        told += [best, f"{text.duration(record.seconds)}", f"lr {text.rate(record.lr)}"]
        return "  ".join([*told, str(variant_of(record))])

    def _say(self, line: str) -> None:
        """One line, whatever it holds and however long it is."""
        from rich.text import Text

        self.console.print(Text(line), soft_wrap=True)

    def _first(self, records: Iterable[TrialRecord]) -> TrialRecord | None:
        scored = (record for record in records if record.score is not None)
        return next(iter(ranked(scored, self.recipe)), None)


def counts(records: Collection[TrialRecord], running: Sized, total: int) -> list[str]:
    """How many trials have ended, how many run and how many have no score."""
    pruned = sum(record.state == "pruned" for record in records)
    failed = sum(record.score is None for record in records) - pruned
    numbers = {"running": len(running), "failed": failed, "pruned": pruned}
    told = [f"{number} {name}" for name, number in numbers.items() if number]
    return [f"{len(records)}/{total} trials", *told]


def time_left(
    records: Sequence[TrialRecord], running: Sequence[Running], total: int, workers: int
) -> float | None:
    """Seconds until the last trial, as if the rest were like those that finished."""
    if not records:
        return None
    mean = sum(record.seconds for record in records) / len(records)
    now = time.monotonic()
    # At least nothing: a trial that takes longer than the mean is about to end.
    under_way = sum(max(0.0, mean - (now - run.began)) for run in running)
    waiting = max(0, total - len(records) - len(running))
    return (under_way + mean * waiting) / workers


def table(
    told: Iterable[str], best: TrialRecord | None, running: Sequence[Running], recipe: Recipe
) -> RenderableType:
    """A line of what is `told`, one of the best trial, and a row for each trial that runs."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [Text(", ".join(told), style="bold")]
    if best is not None:
        found = f"best {text.score(best.score)}  {variant_of(best)}"
        lines.append(Text(f"{found}  lr {text.rate(best.lr)}", style="green"))
    if not running:
        return Group(*lines)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for name in ("trial", "step", "score", "time", "lr"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("running", no_wrap=True, overflow="ellipsis", ratio=1)
    for run in running[:SHOWN]:
        table.add_row(
            str(run.spec.number),
            f"{run.step}/{recipe.steps}",
            text.score(run.score),
            text.duration(time.monotonic() - run.began),
            text.rate(run.spec.lr),
            Text(run.variant),
        )
    if len(running) > SHOWN:
        lines.append(Text(f"{len(running) - SHOWN} more are running"))
    return Group(*lines, table)


def _name(trial: TrialRecord | TrialSpec) -> str:
    return f"{'trial' if trial.phase == 'search' else 'final'} {trial.number}"


def _ending(record: TrialRecord) -> str:
    if record.score is not None:
        return f"{record.state} {text.score(record.score)}"
    return f"{record.state}: {text.reason(record)}"

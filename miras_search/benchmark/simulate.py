"""Replay several samplers, and write what came out: terminal, CSV and SVG."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, field_validator

from miras_search import samplers
from miras_search.benchmark.replay import Outcomes, Replays, replay
from miras_search.benchmark.table import Table, located
from miras_search.benchmark.verdict import (
    EARLY,
    SURE,
    TOP,
    UNITS,
    best,
    curve,
    early,
    improvement,
    worth_early,
)
from miras_search.errors import nearest
from miras_search.record import write_whole
from miras_search.report import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from miras_search.benchmark.verdict import Curve

YARDSTICK = "random"
"""Always among the samplers, and always run to the last point: costs are told as shares of its."""


class Settings(BaseModel, frozen=True, extra="forbid", strict=True):
    """What is replayed, and how often."""

    samplers: list[str] = ["random", "local", "evolution"]
    """By name; random is added."""
    replays: Annotated[int, Field(ge=2, le=10**6)] = 1000
    """Searches by each sampler."""
    budget: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of a search, as a share of the points."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    out: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the results; null is runs/<table>-replays."""

    @field_validator("samplers")
    @classmethod
    def _known(cls, given: list[str]) -> list[str]:
        for name in given:
            if name not in samplers.names():
                raise ValueError(f"unknown sampler '{name}': {nearest(name, samplers.names())}")
        return list(dict.fromkeys([YARDSTICK, *given]))


def simulate(file: str, settings: Settings, console: Console) -> Path:
    """Replay, print, and return the folder with curves.csv and curves.svg.

    Raises:
        UserError: the table cannot be read or replayed.
    """
    table = Table.load(file)
    outcomes = Outcomes.of(table)
    points = len(outcomes.pool)
    console.print(
        f"{table.trials.num_rows} trials of {points} points, {outcomes.variants} variants; "
        f"the best {best(outcomes)} count. {settings.replays} searches by each sampler.",
        highlight=False,
    )
    found: dict[str, Replays] = {}
    for name in dict.fromkeys([YARDSTICK, *settings.samplers]):
        share = 1.0 if name == YARDSTICK else settings.budget
        trials = max(early(outcomes), round(share * points))
        found[name] = replay(outcomes, name, settings.replays, trials, settings.seed)
    curves = {n: {unit: curve(outcomes, own, unit) for unit in UNITS} for n, own in found.items()}
    folder = Path(settings.out or Path("runs") / f"{located(file).stem}-replays")
    write_whole(folder / "curves.csv", _csv(curves))
    _draw(curves, settings.budget, folder / "curves.svg")
    _print(outcomes, found, curves, console)
    return folder


def _csv(curves: Mapping[str, Mapping[str, Curve]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(("sampler", "unit", "cost", "found", "regret", "rank"))
    for name, own in curves.items():
        for unit, line in own.items():
            columns = (line.cost, line.found, line.regret, line.rank)
            for values in zip(*columns, strict=True):
                writer.writerow((name, unit, *(f"{value:.6g}" for value in values)))
    return written.getvalue()


def _print(
    outcomes: Outcomes,
    found: Mapping[str, Replays],
    curves: Mapping[str, Mapping[str, Curve]],
    console: Console,
) -> None:
    from rich import box
    from rich.table import Table as Shown

    at = early(outcomes) - 1
    ceiling = float(curves[YARDSTICK]["trials"].found[-1])
    shown = Shown(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("sampler")
    for name in (f"found at {EARLY:.0%}", "rank", "regret", "at the end", f"trials to {SURE:.0%}"):
        shown.add_column(name, justify="right")
    for name in (f"of {YARDSTICK}'s", f"time to {SURE:.0%}", f"of {YARDSTICK}'s", "a proposal"):
        shown.add_column(name, justify="right")
    for name, own in curves.items():
        line = own["trials"]
        cells = [f"{line.found[at]:.1%}", f"{line.rank[at]:.1f}", f"{line.regret[at]:.4f}"]
        cells.append(f"{line.found[-1]:.1%} of {len(line.cost)}")
        for unit, told in (("trials", "{:.0f}".format), ("seconds", text.duration)):
            cost = own[unit].needed(ceiling)
            yardstick = curves[YARDSTICK][unit].needed(ceiling)
            cells.append(text.NONE if cost is None else told(cost))
            known = cost is not None and yardstick is not None
            cells.append(f"{cost / yardstick:.1%}" if known else text.NONE)  # pyright: ignore
        proposals = found[name].incumbent.size
        shown.add_row(name, *cells, f"{1000 * found[name].wall / proposals:.2f} ms")
    console.print(shown)
    console.print(
        f"found: share of searches whose incumbent is in the best {TOP:.0%}. rank: variants better "
        f"than it. regret: what its mean over seeds lacks. {SURE:.0%}: of the {ceiling:.1%} that "
        "find one by trying every point. All judged by means over seeds.",
        highlight=False,
    )
    _print_improvement(outcomes, found, console)


def _print_improvement(outcomes: Outcomes, found: Mapping[str, Replays], console: Console) -> None:
    """Each sampler against each other."""
    from rich import box
    from rich.table import Table as Shown

    worth = {name: worth_early(outcomes, own) for name, own in found.items()}
    shown = Shown(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(f"better after {early(outcomes)} trials")
    for name in worth:
        shown.add_column(f"than {name}", justify="right")
    for name, ours in worth.items():
        cells = []
        for other, theirs in worth.items():
            share, low, high = improvement(ours, theirs)
            cells.append(text.NONE if other == name else f"{share:.1%} ({low:.1%}-{high:.1%})")
        shown.add_row(name, *cells)
    console.print(shown)
    console.print(
        "Probability that a search has the better incumbent, ties half, with the 95 % interval of "
        "a bootstrap over searches.",
        highlight=False,
    )


def _draw(curves: Mapping[str, Mapping[str, Curve]], budget: float, file: Path) -> None:
    """Share that found the best, and regret, against trials and against training time."""
    from miras_search.report.svg import SERIES, canvas, write

    lines: Any = ("-", "--", "-.", ":")
    with canvas(4.6) as figure:
        grid = figure.subplots(2, 2, sharex="col", sharey="row")
        for column, (unit, told) in enumerate((("trials", "trials"), ("seconds", "training s"))):
            grid[1][column].set_xlabel(told)
            for i, (name, own) in enumerate(curves.items()):
                line = own[unit]
                # The yardstick ran further than the others.
                shown = round(budget * len(line.cost)) if name == YARDSTICK else len(line.cost)
                look = {"color": SERIES[i % len(SERIES)], "linestyle": lines[i % len(lines)]}
                for row, values in enumerate((line.found, line.regret)):
                    grid[row][column].plot(line.cost[:shown], values[:shown], label=name, **look)
                    grid[row][column].grid(axis="y")
        grid[0][0].set_ylabel(f"found the best {TOP:.0%}")
        grid[1][0].set_ylabel("mean regret")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
        write(figure, file)

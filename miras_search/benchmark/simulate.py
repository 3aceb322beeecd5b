"""Replay several samplers, and write what came out: terminal, CSV and SVG."""

from __future__ import annotations

import csv
import io
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, field_validator

from miras_search import samplers, shipped
from miras_search.benchmark.replay import Outcomes, Replays, replay
from miras_search.benchmark.table import Table
from miras_search.benchmark.verdict import (
    SURE,
    TOP,
    UNITS,
    best,
    crowned,
    curve,
    declared,
    early,
    improvement,
)
from miras_search.errors import nearest
from miras_search.pruning import PRUNERS
from miras_search.record import write_whole
from miras_search.report import text
from miras_search.report.leaderboard import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from rich.console import Console

    from miras_search.benchmark.verdict import Curve

YARDSTICK = "random"
"""Always among the samplers, and always run to the last point: costs are told as shares of its."""


class Settings(BaseModel, frozen=True, extra="forbid", strict=True):
    """What is replayed, and how often."""

    methods: list[str] = ["random", "local", "evolution", "gp", "gp/forecast"]
    """Samplers by name, or a sampler and a pruner with a slash between; random is added."""
    replays: Annotated[int, Field(ge=2, le=10**6)] = 1000
    """Searches by each method."""
    budget: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of a search, as a share of the points."""
    finalists: Annotated[int, Field(ge=1)] = 3
    """Variants that run again, on the other seeds of the table, after 5 % of the trials."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    out: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the results; null is runs/<table>-replays."""

    @field_validator("methods")
    @classmethod
    def _known(cls, given: list[str]) -> list[str]:
        for method in given:
            name, slash, pruner = method.partition("/")
            if name not in samplers.names():
                raise ValueError(f"unknown sampler '{name}': {nearest(name, samplers.names())}")
            if slash and pruner not in PRUNERS:
                raise ValueError(f"unknown pruner '{pruner}': {nearest(pruner, PRUNERS)}")
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
        f"the best {best(outcomes)} count. {settings.replays} searches by each method.",
        highlight=False,
    )
    found: dict[str, Replays] = {}
    for name in dict.fromkeys([YARDSTICK, *settings.methods]):
        # A method that stops trials has more of them for the same steps.
        share = 1.0 if name == YARDSTICK else settings.budget * (1 + 2 * ("/" in name))
        trials = min(points, max(early(outcomes), round(share * points)))
        found[name] = replay(outcomes, name, settings.replays, trials, settings.seed)
    curves = {n: {unit: curve(outcomes, own, unit) for unit in UNITS} for n, own in found.items()}
    folder = Path(settings.out or Path("runs") / f"{shipped.table(file).stem}-replays")
    write_whole(folder / "curves.csv", _csv(curves))
    _draw(curves, settings.budget, folder / "curves.svg")
    _print(outcomes, found, curves, settings.finalists, console)
    return folder


def _csv(curves: Mapping[str, Mapping[str, Curve]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(("method", "unit", "cost", "tried", "declared", "regret", "rank"))
    for name, own in curves.items():
        for unit, line in own.items():
            columns = (line.cost, line.tried, line.declared, line.regret, line.rank)
            for values in zip(*columns, strict=True):
                writer.writerow((name, unit, *(f"{value:.6g}" for value in values)))
    return written.getvalue()


def _print(
    outcomes: Outcomes,
    found: Mapping[str, Replays],
    curves: Mapping[str, Mapping[str, Curve]],
    finalists: int,
    console: Console,
) -> None:
    ceiling = float(curves[YARDSTICK]["trials"].declared[-1])
    _print_costs(outcomes, curves, "tried", SURE, console)
    _print_costs(outcomes, curves, "declared", SURE * ceiling, console)
    means = " by means over seeds" if max(map(len, outcomes.rows)) > 1 else ""
    console.print(
        f"tried: one of the best {TOP:.0%}{means} was trained. declared: it also "
        f"looked best, by one trial of each, as for {ceiling:.1%} of searches of every point.",
        highlight=False,
    )
    spent = f"{early(outcomes)} trials"
    _print_chosen(
        outcomes, spent, {n: declared(outcomes, own) for n, own in found.items()}, console
    )
    winners = {name: crowned(outcomes, own, finalists) for name, own in found.items()}
    over = {name: points for name, points in winners.items() if points is not None}
    if over:
        _print_chosen(outcomes, f"{spent} and finals of {finalists}", over, console)
    console.print(
        "Chosen after as many steps: what looks best, or wins the finals on the seeds that the "
        "search has not met. rank: variants that are better. regret: how much less it is worth "
        "than the best. Probability: of the better choice, ties half; the interval is of a "
        "bootstrap over searches.",
        highlight=False,
    )
    speeds = (f"{n} {1000 * own.wall / own.tried.size:.2f} ms" for n, own in found.items())
    console.print(f"A proposal took: {', '.join(speeds)}.", highlight=False)


def _print_costs(
    outcomes: Outcomes,
    curves: Mapping[str, Mapping[str, Curve]],
    event: str,
    share: float,
    console: Console,
) -> None:
    """How many searches have met the event early and at the end, and what `share` of them costs."""
    to, of = f"to {share:.1%}", f"of\n{YARDSTICK}'s"
    at = early(outcomes)
    names = (f"after {at}", "at the end", f"trials\n{to}", of, f"time\n{to}", of)
    shown = plain_table(event, names)
    for name, own in curves.items():
        line = getattr(own["trials"], event)
        cells = [f"{line[at - 1]:.1%}", f"{line[-1]:.1%} of {len(line)}"]
        for unit, told in (("trials", "{:.0f}".format), ("seconds", text.duration)):
            cost = own[unit].needed(event, share)
            yardstick = curves[YARDSTICK][unit].needed(event, share)
            cells.append(text.NONE if cost is None else told(cost))
            known = cost is not None and yardstick is not None
            cells.append(f"{cost / yardstick:.1%}" if known else text.NONE)  # pyright: ignore
        shown.add_row(name, *cells)
    console.print(shown)


def _print_chosen(
    outcomes: Outcomes, spent: str, chosen: Mapping[str, np.ndarray], console: Console
) -> None:
    """How good the choice of each sampler is, and how often better than that of another."""
    shown = plain_table(f"after {spent}", (f"best {TOP:.0%}", "rank", "regret"))
    for name, points in chosen.items():
        top = (outcomes.rank[points] < best(outcomes)).mean()
        regret = outcomes.worth.max() - outcomes.worth[points].mean()
        shown.add_row(name, f"{top:.1%}", f"{outcomes.rank[points].mean():.1f}", f"{regret:.4f}")
    console.print(shown)
    shown = plain_table(f"better after {spent}", ("than", "probability", "95 % interval"))
    for theirs, ours in combinations(chosen, 2):
        worth = outcomes.worth[chosen[ours]], outcomes.worth[chosen[theirs]]
        share, low, high = improvement(*worth)
        shown.add_row(ours, theirs, f"{share:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(shown)


def _draw(curves: Mapping[str, Mapping[str, Curve]], budget: float, file: Path) -> None:
    """Share that tried and that declared one of the best, and regret, against both costs."""
    from miras_search.report.svg import SERIES, canvas, write

    lines: Any = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    rows = {
        "tried": f"tried the best {TOP:.0%}",
        "declared": "declared it",
        "regret": "mean regret",
    }
    with canvas(6.2) as figure:
        grid = figure.subplots(len(rows), 2, sharex="col", sharey="row")
        for column, (unit, told) in enumerate((("trials", "trials"), ("seconds", "training s"))):
            grid[-1][column].set_xlabel(told)
            for i, (name, own) in enumerate(curves.items()):
                line = own[unit]
                # The yardstick ran further than the others.
                shown = round(budget * len(line.cost)) if name == YARDSTICK else len(line.cost)
                look = {"color": SERIES[i % len(SERIES)], "linestyle": lines[i % len(lines)]}
                for axes, row in zip(grid[:, column], rows, strict=True):
                    axes.plot(line.cost[:shown], getattr(line, row)[:shown], label=name, **look)
                    axes.grid(axis="y")
        for axes, label in zip(grid[:, 0], rows.values(), strict=True):
            axes.set_ylabel(label)
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5)
        write(figure, file)

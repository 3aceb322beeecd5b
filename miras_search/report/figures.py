"""The figures of a report, each from distinct variants with their trials."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miras_search import pareto
from miras_search.record import write_whole
from miras_search.registry import CHOICES
from miras_search.report import dots, marks, sentences, text
from miras_search.report.leaderboard import label, shared_choices
from miras_search.report.svg import MARKERS, MUTED, PAGE, SERIES, canvas, drawn, on_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from miras_search.finals import Standing
    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord
    from miras_search.report.leaderboard import Entry

ROWS = 20
"""Variants in the figure of all trials."""


AXES: dict[str, tuple[str, Callable[[float], str]]] = {
    "state_bytes": ("state of one sequence", lambda x: text.memory(round(x)).replace(".0 ", " ")),
    "parameters": ("parameters", lambda x: text.short_count(round(x))),
    "flops_per_token": ("FLOPs a token", lambda x: text.short_count(round(x))),
    "seconds": ("time of a trial", text.duration),
}
"""Words for each of `pareto.COSTS`, and how a value is told."""

NAMES = ("curves", "variants", "choices", "rates", "lengths", *AXES, "finals", "effects", "kinds")
"""Of all figures that a report may have."""


@dataclass(frozen=True)
class Picture:
    """A figure with what stands above and below it, and the numbers that it shows."""

    name: str
    """Of its files, and of what is in it."""
    title: str
    caption: str
    drawing: str
    """An `<svg>` element that stands alone."""
    data: Sequence[Mapping[str, Any]]
    """A row for each mark; all have the same columns."""

    @property
    def svg(self) -> str:
        """The drawing as part of a page."""
        return on_page(self.drawing)

    def write(self, folder: Path) -> None:
        """Write the drawing as `<name>.svg` and the numbers as `<name>.csv`."""
        table = io.StringIO()
        writer = csv.DictWriter(table, [*self.data[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.data)
        write_whole(folder / f"{self.name}.svg", self.drawing)
        write_whole(folder / f"{self.name}.csv", table.getvalue())


@dataclass(frozen=True)
class Along:
    """What lies along the x axis of lines."""

    column: str
    """Of the numbers."""
    words: str
    told: Callable[[float], str] | None = None
    """How a value is named where the axis is logarithmic."""
    markers: int | None = None
    """The most that a line has: where there are more points, some of them with both ends."""
    validation: bool = True
    """Whether scores are those of the validation set, and its levels theirs."""


@dataclass(frozen=True)
class Scores:
    """What the figures are drawn from: variants with a score, best first."""

    entries: Sequence[Entry]
    recipe: Recipe
    first: str | None = None
    """Digest of the first of the finals."""

    def leading(self, most: int) -> list[tuple[int, Entry]]:
        """The first few by rank, and with them the first of the finals."""
        ranked = [*enumerate(self.entries, start=1)]
        over = [one for one in ranked[most:] if one[1].best.digest == self.first]
        return ranked[: most - len(over)] + over

    @property
    def axis(self) -> str:
        """The words along an axis of scores."""
        return f"validation {self.metric}"

    @property
    def metric(self) -> str:
        """What is measured, and which values of it are better."""
        return f"{self.recipe.task.metric.replace('_', ' ')} ({text.better(self.recipe)})"

    @property
    def levels(self) -> dict[str, float]:
        """Chance, plateau and ceiling of the axis."""
        return text.known_levels(self.recipe.task.levels("validation"))

    def labels(self) -> list[str]:
        """Rank and variant."""
        shared = shared_choices(self.entries)
        return [f"{i}  {entry.label(shared)}" for i, entry in enumerate(self.entries, start=1)]


def draw(
    entries: Sequence[Entry], recipe: Recipe, outcome: Standing | None = None
) -> list[Picture]:
    """Every figure that the trials give data for."""
    scored = [entry for entry in entries if entry.best.score is not None]
    first = outcome.first.variant.digest if outcome else None
    scores = Scores(scored, recipe, first)
    if not scored:
        return []
    several = (curves, by_variant, by_choice, by_rate, by_length)
    single = [picture for maker in several if (picture := maker(scores)) is not None]
    return single + by_cost(scores)


def by_variant(scores: Scores) -> Picture | None:
    """Every completed trial, a row for each variant."""
    shown, labels = scores.leading(ROWS), scores.labels()
    rows = [
        dots.Row(labels[rank - 1], [*map(_tried, entry.complete[1:])], _tried(entry.best))
        for rank, entry in shown
    ]
    caption = "Filled: the best trial of a variant. Hollow: its other trials."
    if len(scores.entries) > ROWS:
        caption += f" {ROWS} of {len(scores.entries)} variants, by rank."
    data = [
        _named(rank, entry) | {"lr": record.lr, "seed": record.seed, "score": record.score}
        for rank, entry in shown
        for record in entry.complete
    ]
    title = "Score of each variant"
    drawing = dots.draw("variants", title, rows, scores.axis, scores.levels)
    return Picture("variants", title, caption, drawing, data)


def intervals(outcome: Standing, entries: Sequence[Entry], recipe: Recipe) -> Picture:
    """The runs of each finalist, their mean and its interval."""
    scores = Scores(entries, recipe)
    shared = shared_choices(entries)
    rows = [
        dots.Row(
            label(finalist.variant, shared),
            [dots.Dot(_score(r), f"{text.score(r.score)}, seed {r.seed}") for r in finalist.runs],
            dots.Dot(
                finalist.mean,
                f"mean {text.score(finalist.mean)} {text.interval(finalist.margin)}",
            ),
            finalist.margin,
        )
        for finalist in outcome.finalists
    ]
    caption = "Filled: the mean, with its 95 % interval. Hollow: the runs, one a seed."
    data = [
        {"rank": rank, "variant": label(finalist.variant), "seed": run.seed, "score": run.score}
        | {"mean": finalist.mean, "margin": finalist.margin}
        for rank, finalist in enumerate(outcome.finalists, start=1)
        for run in finalist.runs
    ]
    drawing = dots.draw("finals", "Finals", rows, scores.axis, scores.levels)
    return Picture("finals", "Means over new seeds", caption, drawing, data)


def by_choice(scores: Scores) -> Picture | None:
    """Best scores by what was chosen on each axis that was searched."""
    rows: list[dots.Row] = []
    data: list[dict[str, Any]] = []
    shared = shared_choices(scores.entries)
    for axis in CHOICES:
        groups = _choices(scores.entries, axis)
        if len(groups) > 1:
            rows.append(dots.Row(axis))
            for choice, found in groups.items():
                best, *others = (
                    dots.Dot(_score(e.best), f"{e.label(shared)}: {text.score(e.best.score)}")
                    for e in found
                )
                rows.append(dots.Row(f"    {choice}", others, best))
                data += [{"axis": axis, "choice": choice, "score": e.best.score} for e in found]
    if not rows:
        return None
    drawing = dots.draw("choices", "Score by choice", rows, scores.axis, scores.levels)
    caption = (
        "Each dot is the best trial of one variant, filled for the best variant with that choice. "
        "Variants in a row differ in their other choices as well: a hint, not an effect."
    )
    return Picture("choices", "Score by choice", caption, drawing, data)


def curves(scores: Scores) -> Picture | None:
    """Validation score against step, for the best variants."""
    lines = {
        rank: [(point.step, point.score) for point in entry.best.curve]
        for rank, entry in scores.leading(len(SERIES))
    }
    caption = "The best trial of each of the best variants, on the validation set as it trained."
    along = Along("step", "step", markers=16)
    return _lines("curves", "Learning curves", caption, scores, along, lines)


def by_rate(scores: Scores) -> Picture | None:
    """Score against peak learning rate, for the best variants."""
    lines = {
        rank: sorted((record.lr, _score(record)) for record in entry.complete)
        for rank, entry in scores.leading(len(SERIES))
    }
    caption = (
        "Completed trials of the best variants. A best score at the edge of the rates "
        "tried may not be the best that the variant can do."
    )
    along = Along("lr", "peak learning rate (log scale)", text.rate)
    return _lines("rates", "Score against learning rate", caption, scores, along, lines)


def by_length(scores: Scores) -> Picture | None:
    """Score on held-out examples of other lengths, for the best variants."""
    task = scores.recipe.task
    sets = [(length, f"{split}/{task.metric}") for split, length in task.at_lengths.items()]
    best = {rank: entry.best.metrics for rank, entry in scores.leading(len(SERIES))}
    lines = {
        rank: [(length, found[name]) for length, name in sorted(sets) if name in found]
        for rank, found in best.items()
    }
    caption = (
        f"The best trial of each of the best variants, trained at {_or(task.train_lengths)} tokens "
        "and not chosen by these."
    )
    along = Along(
        "tokens", "tokens of an example (log scale)", lambda x: f"{round(x):,}", validation=False
    )
    return _lines("lengths", "Score against length", caption, scores, along, lines)


def by_cost(scores: Scores) -> list[Picture]:
    """Score against what a variant costs, for each cost in which variants differ."""
    return [made for cost in AXES if (made := _against(scores, cost)) is not None]


def _against(scores: Scores, cost: str) -> Picture | None:
    entries = [entry for entry in scores.entries if getattr(entry.best, cost)]
    if len({getattr(entry.best, cost) for entry in entries}) < 2:
        return None
    placed = [(float(getattr(e.best, cost)), _score(e.best)) for e in entries]
    records = [entry.best for entry in entries]
    on_front = pareto.front(pareto.losses(records, scores.recipe, ["score", cost]))
    kinds = sorted({entry.variant.memory.kind for entry in entries})
    ranks = {entry.best.digest: i for i, entry in enumerate(scores.entries, start=1)}
    labels = dict(zip((e.best.digest for e in scores.entries), scores.labels(), strict=True))
    words, told = AXES[cost]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xlabel=f"{words} (log scale)", ylabel=_wrapped(scores.axis))
        marks.log_axis(axes, {x for x, _ in placed}, told, base=2 if cost == "state_bytes" else 10)
        front = sorted(p for p, is_on in zip(placed, on_front, strict=True) if is_on)
        axes.plot(*zip(*front, strict=True), color=MUTED, linestyle=":", linewidth=1, zorder=1)
        for i, kind in enumerate(kinds):
            own = [n for n, entry in enumerate(entries) if entry.variant.memory.kind == kind]
            said = [
                f"{labels[entries[n].best.digest]}: {told(placed[n][0])}, "
                f"{text.score(placed[n][1])}"
                for n in own
            ]
            look: Any = {"color": SERIES[i % len(SERIES)], "marker": MARKERS[i % len(MARKERS)]}
            marks.points(axes, [placed[n] for n in own], said, label=kind, **look)
        axes.margins(x=0.12, y=0.12)
        figure.legend(loc="outside lower left", ncols=4)
        marks.draw_levels(axes, scores.levels, vertical=False)
        names = [str(ranks[entry.best.digest]) for entry in entries]
        marks.annotate(figure, axes, placed, names)

    number = sum(on_front)
    beaten = f"these {number}" if number > 1 else "this one"
    caption = (
        "The best trial of each variant, with its rank. The dotted line is the Pareto front: no "
        f"other variant beats {beaten} in one without being worse in the other. {sentences.ONE_RUN}"
    )
    if cost == "seconds":
        caption += " Time is of this machine, with whatever ran beside the trial."
    data = [
        _named(ranks[entry.best.digest], entry)
        | {
            "memory": entry.variant.memory.kind,
            cost: getattr(entry.best, cost),
            "score": entry.best.score,
            "front": on,
        }
        for entry, on in zip(entries, on_front, strict=True)
    ]
    title = f"Score against {words}"
    return Picture(cost, title, caption, _drawn(cost, title, 2.9, fill), data)


def _named(rank: int, entry: Entry) -> dict[str, Any]:
    """The first columns of numbers that are about a variant."""
    return {"rank": rank, "variant": entry.label(), "digest": entry.best.digest}


def _drawn(name: str, title: str, height: float, fill: Callable[[Figure], None]) -> str:
    with canvas(height) as figure:
        fill(figure)
        return drawn(figure, name, title)


def _lines(
    name: str,
    title: str,
    caption: str,
    scores: Scores,
    along: Along,
    by_rank: Mapping[int, Sequence[tuple[float, float]]],
) -> Picture | None:
    """A line of (x, score) for each of the best variants, with ranks and names below.

    Nothing where all have one x.
    """
    lines = [[point for point in line if math.isfinite(point[1])] for line in by_rank.values()]
    reached = {x for line in lines for x, _ in line}
    if len(reached) < 2:
        return None
    every = scores.labels()
    labels = [every[rank - 1] for rank in by_rank]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axis = scores.axis if along.validation else scores.metric
        axes.set(xlabel=along.words, ylabel=_wrapped(axis))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        # The best last, so that it lies on top.
        handles: dict[str, Any] = {}
        for i in reversed(range(len(lines))):
            if lines[i]:
                (line,) = axes.plot(*zip(*lines[i], strict=True), color=SERIES[i])
                marked = _spread(lines[i], along.markers or len(lines[i]))
                words = [
                    f"{labels[i]}: {text.score(y)} at {along.column} {x:,.6g}" for x, y in marked
                ]
                look = {"color": SERIES[i], "marker": MARKERS[i], "edgecolor": PAGE}
                points = marks.points(axes, marked, words, linewidth=0.6, **look)
                handles[text.wrapped(labels[i], 62)] = (line, points)
        names = [*handles][::-1]
        figure.legend([handles[name] for name in names], names, loc="outside lower left")
        if along.told is not None:
            marks.log_axis(axes, reached, along.told)
        if along.validation:
            marks.draw_levels(axes, scores.levels, vertical=False)

    data = [
        _named(rank, scores.entries[rank - 1]) | {along.column: x, "score": score}
        for rank, line in zip(by_rank, lines, strict=True)
        for x, score in line
    ]
    drawing = _drawn(name, title, 2.7 + 0.16 * len(lines), fill)
    return Picture(name, title, caption, drawing, data)


def _spread(line: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many points, evenly along a line, from its first to its last."""
    if len(line) <= most:
        return [*line]
    return [line[round(i * (len(line) - 1) / (most - 1))] for i in range(most)]


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)


def _tried(record: TrialRecord) -> dots.Dot:
    told = f"trial {record.number}: {text.score(record.score)}, lr {text.rate(record.lr)}"
    return dots.Dot(_score(record), f"{told}, seed {record.seed}")


def _score(record: TrialRecord) -> float:
    assert record.score is not None
    return record.score


def _wrapped(label: str) -> str:
    return label.replace(" (", "\n(")


def _choices(entries: Sequence[Entry], axis: str) -> dict[str, list[Entry]]:
    """Variants to which an axis means something by choice, best first; only the kind where settings
    make too many choices."""
    entries = [entry for entry in entries if axis not in entry.variant.idle]
    names = [str(entry.variant.choices()[axis]) for entry in entries]
    if len({*names}) > 8:
        names = [entry.variant.choices()[axis].kind for entry in entries]
    found: dict[str, list[Entry]] = {}
    for name, entry in zip(names, entries, strict=True):
        found.setdefault(name, []).append(entry)
    return found

"""Rows of dots, each under its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from miras_search.report import marks, text
from miras_search.report.svg import GRID, INK, PAGE, SERIES, canvas, drawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LINE, _DOTS = 0.15, 0.2
"""Inches taken by a line of a label and by a row of dots."""


class Dot(NamedTuple):
    """A value, and what is said of it under the mouse."""

    value: float
    words: str = ""


@dataclass(frozen=True)
class Row:
    """A label with its values below it, or a heading where there are none."""

    label: str
    others: Sequence[Dot] = ()
    best: Dot | None = None
    margin: float | None = None
    """Half the length of a whisker through `best`, if it has one."""


def draw(name: str, title: str, rows: Sequence[Row], axis: str, levels: Mapping[str, float]) -> str:
    """An SVG of rows from top to bottom: a label takes the whole width, so a phone can show it."""
    labels = [text.wrapped(row.label.strip(), 60) for row in rows]
    height = sum(_height(row, label) for row, label in zip(rows, labels, strict=True))
    hollow: list[tuple[Dot, float]] = []
    filled: list[tuple[Dot, float]] = []
    with canvas(height + 0.65) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel=axis, yticks=[], ylim=(-height, 0.05))
        axes.spines["left"].set_visible(False)
        y = 0.0
        for row, label in zip(rows, labels, strict=True):
            axes.text(
                0,
                y - 0.04,
                label,
                transform=axes.get_yaxis_transform(),
                verticalalignment="top",
                fontweight="bold" if row.best is None else "normal",
                color=INK,
                fontsize=8,
                # Lines that cross the rows end at a label.
                bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 0.6},
                # A long label runs past the axes; it must not shrink them.
                in_layout=False,
            )
            y -= _height(row, label)
            if row.best is not None:
                line = y + _DOTS / 2
                axes.axhline(line, color=GRID, linewidth=0.6, zorder=0)
                if row.margin is not None:
                    ends = [row.best.value - row.margin, row.best.value + row.margin]
                    axes.plot(ends, [line] * 2, color=SERIES[0], marker="|", linewidth=1.4)
                hollow += [(dot, line) for dot in row.others]
                filled.append((row.best, line))
        for dots, colour in ((hollow, PAGE), (filled, SERIES[0])):
            if dots:  # an empty collection that is not clipped takes room at the origin
                marks.points(
                    axes,
                    [(dot.value, line) for dot, line in dots],
                    [dot.words for dot, _ in dots],
                    facecolor=colour,
                    edgecolor=SERIES[0],
                    clip_on=False,
                )
        marks.draw_levels(axes, levels, vertical=True)
        return drawn(figure, name, title)


def _height(row: Row, label: str) -> float:
    lines = label.count("\n") + 1
    return _LINE * lines + (_DOTS if row.best is not None else 0.08)

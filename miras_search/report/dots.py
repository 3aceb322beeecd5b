"""Rows of dots under their labels, and marks that several figures share."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from miras_search.report.svg import GRID, INK, MUTED, PAGE, SERIES, canvas, inline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE, _DOTS = 0.15, 0.2
"""Inches taken by a line of a label and by a row of dots."""


@dataclass(frozen=True)
class Row:
    """A label with its values below it, or a heading where there are none."""

    label: str
    others: Sequence[float] = field(default_factory=list)
    best: float | None = None


def draw(
    name: str, title: str, rows: Sequence[Row], axis: str, levels: Mapping[str, float]
) -> str:
    """Rows from top to bottom: a label takes the whole width, so a phone can show it."""
    labels = [textwrap.fill(row.label.strip(), 60) for row in rows]
    height = sum(_height(row, label) for row, label in zip(rows, labels, strict=True))
    with canvas(height + 0.65) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel=axis, yticks=[], ylim=(-height, 0.05))
        axes.spines["left"].set_visible(False)
        y = 0.0
        for row, label in zip(rows, labels, strict=True):
            heading = row.best is None
            axes.text(
                0,
                y - 0.04,
                label,
                transform=axes.get_yaxis_transform(),
                verticalalignment="top",
                fontweight="bold" if heading else "normal",
                color=INK,
                fontsize=8,
            )
            y -= _height(row, label)
            if not heading:
                line = y + _DOTS / 2
                axes.axhline(line, color=GRID, linewidth=0.6, zorder=0)
                look = {"color": SERIES[0], "linestyle": "", "clip_on": False, "marker": "o"}
                axes.plot(row.others, [line] * len(row.others), markerfacecolor=PAGE, **look)
                axes.plot([row.best], [line], **look)
        draw_levels(axes, levels, vertical=True)
        return inline(figure, name, title)


def _height(row: Row, label: str) -> float:
    lines = label.count("\n") + 1
    return _LINE * lines + (_DOTS if row.best is not None else 0.08)


def draw_levels(axes: Axes, levels: Mapping[str, float], *, vertical: bool) -> None:
    """Lines at chance, plateau and ceiling, where they are near enough not to squeeze the data."""
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    room = 0.1 * (high - low)
    for name, level in levels.items():
        if not low - room <= level <= high + room:
            continue
        look = {"color": MUTED, "linestyle": (0, (4, 3)), "linewidth": 0.8, "zorder": 0.5}
        if vertical:
            axes.axvline(level, **look)
            place, transform = (level, 1.0), axes.get_xaxis_transform()
            align = {"horizontalalignment": "center", "verticalalignment": "bottom"}
        else:
            axes.axhline(level, **look)
            place, transform = (1.0, level), axes.get_yaxis_transform()
            align = {"horizontalalignment": "right", "verticalalignment": "bottom"}
        axes.text(*place, name, transform=transform, color=MUTED, fontsize=7.5, **align)


def annotate(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]
) -> None:
    """Names beside points, in order of importance; one that finds no free place is left out."""
    figure.draw_without_rendering()  # the layout decides where data lies on the page
    pixels = axes.transData.transform(list(points))
    unit = figure.dpi / 72
    taken = [(x, y, 3 * unit, 3 * unit) for x, y in pixels]
    for (x, y), point, name in zip(pixels, points, names, strict=True):
        half = 2.6 * len(name)
        for dx, dy in ((5 + half, 0), (-5 - half, 0), (0, 8), (0, -8), (5 + half, 7), (5 + half, -7)):
            box = (x + dx * unit, y + dy * unit, half * unit, 4 * unit)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    name,
                    point,
                    (dx, dy),
                    textcoords="offset points",
                    horizontalalignment="center",
                    verticalalignment="center_baseline",
                    fontsize=7.5,
                    color=INK,
                )
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes, given by centre and half sizes, share a point."""
    return abs(a[0] - b[0]) < a[2] + b[2] and abs(a[1] - b[1]) < a[3] + b[3]

"""Marks that several figures share: levels, logarithmic axes, names beside points."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from miras_search.report.svg import INK, MUTED, hover

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure


def points(
    axes: Axes, places: Sequence[tuple[float, float]], words: Sequence[str], **look: Any
) -> PathCollection:
    """Markers of the size that lines have, with what is said of each under the mouse."""
    from matplotlib import rcParams

    size = rcParams["lines.markersize"] ** 2
    made = axes.scatter(*zip(*places, strict=True), s=size, zorder=2.5, **look)
    hover(made, words)
    return made


def draw_levels(axes: Axes, levels: Mapping[str, float], *, vertical: bool) -> None:
    """Lines at chance, plateau and ceiling, where they are near enough not to squeeze the data."""
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    room = 0.1 * (high - low)
    for name, level in levels.items():
        if not low - room <= level <= high + room:
            continue
        look: Any = {"color": MUTED, "linestyle": (0, (4, 3)), "linewidth": 0.8, "zorder": 0.5}
        if vertical:
            axes.axvline(level, **look)
            place, transform, offset = (level, 1.0), axes.get_xaxis_transform(), (0, 1)
            align: Any = {"horizontalalignment": "center", "verticalalignment": "bottom"}
        else:
            axes.axhline(level, **look)
            place, transform, offset = (1.0, level), axes.get_yaxis_transform(), (0, 1.5)
            align = {"horizontalalignment": "right", "verticalalignment": "bottom"}
        axes.annotate(
            name,
            place,
            offset,
            xycoords=transform,
            textcoords="offset points",
            color=MUTED,
            fontsize=7.5,
            **align,
        )


def log_axis(
    axes: Axes, values: Collection[float], name: Callable[[float], str], base: float = 10
) -> None:
    """A logarithmic x axis with a tick at each value, or at round ones if there are many."""
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(lambda value, position: name(value))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min(values), max(values)
    # Few values that are far enough apart for their names to stand side by side.
    near = (high / low) ** (1 / 6)
    ordered = sorted(values)
    if all(b / a >= near for a, b in pairwise(ordered)):
        axes.set_xticks(_distinct(ordered, name))
    elif high < low * base**2:  # no two powers to put ticks at
        round_ones = {float(f"{tick:.3g}") for tick in (low, math.sqrt(low * high), high)}
        axes.set_xticks(_distinct(sorted(round_ones), name))


def _distinct(ticks: Iterable[float], name: Callable[[float], str]) -> list[float]:
    """Those whose names differ."""
    named: dict[str, float] = {}
    for tick in ticks:
        named.setdefault(name(tick), tick)
    return [*named.values()]


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
        for dx, dy in (
            (5 + half, 0),
            (-5 - half, 0),
            (0, 8),
            (0, -8),
            (5 + half, 7),
            (5 + half, -7),
        ):
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

"""The figures of what made a difference: a map of axes and their pairs, and kinds against means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.report import dots, text
from miras_search.report.figures import Picture
from miras_search.report.svg import INK, MUTED, PAGE, SERIES, canvas, drawn, hover

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from miras_search.recipe import Recipe
    from miras_search.report.differences import Differences
    from miras_search.stats.effects import Effect

_CELL = 0.52
"""Inches that a row of the map takes."""
_LARGEST = 560.0
"""Square points of the disc of a share of 1."""


def draw(found: Differences, recipe: Recipe) -> list[Picture]:
    """A map where axes differ, and the kinds of those axes that made a difference."""
    pictures = [_map(found)] if found.axes else []
    shown = [axis for axis in found.axes if found.shows(found.found.get(axis))]
    return pictures + ([_kinds(found, shown, recipe)] if shown else [])


def _map(found: Differences) -> Picture:
    """Shares of the variance: of each axis on the diagonal, of each pair below it."""
    axes = found.axes
    pairs = [(i, j) for i in range(len(axes)) for j in range(i + 1)]
    effects = {(i, j): found.of(axes[i], axes[j]) for i, j in pairs}
    told = {place: e for place, e in effects.items() if e is not None and e.p is not None}
    title = "Axes and pairs of axes"
    with canvas(_CELL * len(axes) + 0.45) as figure:
        plot: Axes = figure.add_subplot()
        plot.set(xlim=(-0.5, len(axes) - 0.5), ylim=(len(axes) - 0.4, -0.5))
        plot.set_xticks(range(len(axes)), axes)
        plot.set_yticks(range(len(axes)), axes)
        plot.tick_params(length=0)
        plot.spines[:].set_visible(False)
        for shown in (False, True):
            own = {place: e for place, e in told.items() if found.shows(e) is shown}
            if own:
                discs = plot.scatter(
                    [j for _, j in own],
                    [i - 0.12 for i, _ in own],
                    s=[_LARGEST * max(0.0, e.share or 0.0) for e in own.values()],
                    facecolor=SERIES[0] if shown else PAGE,
                    edgecolor=SERIES[0] if shown else MUTED,
                    clip_on=False,
                )
                hover(discs, [_words(effect) for effect in own.values()])
        for i, j in pairs:
            effect = told.get((i, j))
            plot.text(
                j,
                i + 0.42,
                text.NONE if effect is None else text.percent(effect.share or 0.0),
                color=INK if found.shows(effect) else MUTED,
                horizontalalignment="center",
                fontsize=8,
            )
        drawing = drawn(figure, "effects", title)
    caption = (
        "What an axis explains of the variance that all others leave, and a pair of what all axes "
        "leave, beside what goes with them. Filled: shown. A dash: the trials cannot tell."
    )
    data = [
        {"effect": effect.name, "variants": effect.variants, "share": effect.share}
        | {"p": effect.p, "q": effect.q, "shown": found.shows(effect)}
        | {"goes_with": ", ".join(effect.goes_with)}
        for effect in (*effects.values(), *found.settings)
        if effect is not None
    ]
    return Picture("effects", title, caption, drawing, data)


def _words(effect: Effect) -> str:
    share = text.percent(effect.share or 0.0)
    return f"{effect.name}: {share} of the variance, p {effect.p:.2g}, q {effect.q:.2g}"


def _kinds(found: Differences, axes: list[str], recipe: Recipe) -> Picture:
    """What each kind of an axis is worth against their mean."""
    rows: list[dots.Row] = []
    unknown: list[str] = []
    for axis in axes:
        rows.append(dots.Row(axis))
        for kind, value in found.against_mean[axis].items():
            if value is None:
                unknown.append(kind)
                continue
            margin = found.own_margins[axis][kind]
            told = f" {text.interval(margin)}" if margin is not None else ", without an interval"
            dot = dots.Dot(value, f"{kind}: {value:+.4f}{told}")
            rows.append(dots.Row(f"    {kind}", best=dot, margin=margin))
    title = "Kinds, with all other axes equal"
    metric = recipe.task.metric.replace("_", " ")
    caption = (
        f"{metric.capitalize()} of each kind against the mean of its axis, with intervals of 95 % "
        "for all kinds of an axis together."
    )
    if unknown:
        caption += f" Never tried where others of the axis were: {', '.join(unknown)}."
    drawing = dots.draw("kinds", title, rows, f"{metric} ({text.better(recipe)})", {"mean": 0.0})
    data = [
        {"axis": axis, "kind": kind, "difference": value, "margin": found.own_margins[axis][kind]}
        for axis in axes
        for kind, value in found.against_mean[axis].items()
    ]
    return Picture("kinds", title, caption, drawing, data)

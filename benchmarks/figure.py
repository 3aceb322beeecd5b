"""The rows as a figure: the median of each ratio and its spread, on a logarithmic axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.timing import Row


def draw(rows: Sequence[Row], file: Path) -> None:
    """Write one line for each row, the first on top; the kind of file is its suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = [-i for i in range(len(rows))]
    for place, row in zip(places, rows, strict=True):
        axes.plot([row.minimum, row.maximum], [place, place], color="0.6", linewidth=3)
        axes.plot([row.ratio], [place], "o", color="#0172b1")
        axes.annotate(
            f"{row.ratio:.2f}", (row.maximum, place), (6, -3), textcoords="offset points", size=8
        )
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row.name} / {row.peer}" for row in rows], fontsize=8)
    axes.set_xlabel("ratio, median and range; above 1: better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)

"""The accuracy matrix of continual learning: what later episodes leave of earlier ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from miras_search.report import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from miras_search.recipe import Recipe
    from miras_search.report.leaderboard import Entry

SHOWN = 3
"""Variants whose matrix is shown."""

Matrix = list[list[float | None]]
"""R[i - 1][j - 1] is the score on episode j after reading episodes 1 .. i; None if not measured."""


@dataclass(frozen=True)
class Summary:
    """A matrix of n episodes in four numbers; None where there is nothing to take the mean of."""

    final: float | None
    """Mean of R[n][j] over all j: average accuracy in the end."""
    forgetting: float | None
    """Mean over j < n of the largest R[i][j] of i < n, less R[n][j] (Chaudhry et al. 1801.10112,
    definition 3). Below zero where the last episode helped all earlier ones."""
    backward: float | None
    """Mean over j < n of R[n][j] - R[j][j] (Lopez-Paz and Ranzato 1706.08840, equation 3)."""
    forward: float | None
    """Mean over j > 1 of R[j - 1][j] less chance (the same, equation 4)."""


def cell(split: str) -> tuple[int, int] | None:
    """(i, j) of a held-out set named "after<i>-on<j>"; None for any other name."""
    found = re.fullmatch(r"after([1-9]\d*)-on([1-9]\d*)", split)
    return (int(found[1]), int(found[2])) if found else None


def matrix(scores: Mapping[str, float]) -> Matrix:
    """The scores of held-out sets that are cells, by name, as a square; empty without any."""
    cells = {where: score for split, score in scores.items() if (where := cell(split))}
    episodes = range(1, 1 + max((max(where) for where in cells), default=0))
    return [[cells.get((i, j)) for j in episodes] for i in episodes]


def summary(scores: Matrix, chance: float | None = None) -> Summary:
    """The numbers that sum up a matrix whose scores are better when higher.

    Means are over what was measured. `chance` is the score on an episode of who has read nothing.
    """
    last, before = (scores or [[]])[-1], scores[:-1]
    lost, moved, ahead = [], [], []
    for j, now in enumerate(last[:-1]):
        known = [score for row in before if (score := row[j]) is not None]
        own, unseen = scores[j][j], scores[j][j + 1]
        if now is not None and known:
            lost.append(max(known) - now)
        if now is not None and own is not None:
            moved.append(now - own)
        if unseen is not None and chance is not None:
            ahead.append(unseen - chance)
    final = [score for score in last if score is not None]
    return Summary(*(mean(some) if some else None for some in (final, lost, moved, ahead)))


def shown(entries: Iterable[Entry], recipe: Recipe) -> list[dict[str, Any]]:
    """Matrix and summary of each of the leading variants, if the task has cells."""
    task = recipe.task
    cells = [split for split in task.evaluations if cell(split)]
    if not cells or task.direction != "maximize":
        return []
    found = []
    for entry in entries:
        measured = {split: entry.best.metrics.get(f"{split}/{task.metric}") for split in cells}
        scores = matrix({split: score for split, score in measured.items() if score is not None})
        if scores:
            unread = (split for split in cells if (i_j := cell(split)) and i_j[0] < i_j[1])
            told = summary(scores, task.levels(next(unread, cells[0])).chance)
            found.append({"entry": entry, "matrix": scores, "summary": told})
    return found[:SHOWN]


def lines(entries: Sequence[Entry], recipe: Recipe) -> list[str]:
    """The summaries of the leading variants, a line each."""
    return [
        f"After {len(found['matrix'])} episodes, variant {rank}: " + told(found["summary"])
        for rank, found in enumerate(shown(entries, recipe), start=1)
    ]


def told(found: Summary) -> str:
    """What is known of a summary, in words."""
    names = {"final": "accuracy", "backward": "backward transfer", "forward": "forward transfer"}
    known = {name: value for name, value in vars(found).items() if value is not None}
    return ", ".join(f"{names.get(n, n)} {text.score(v)}" for n, v in known.items()) + "."

"""What earlier studies found, also of another task or size, as points to begin with.

warm_start of a recipe -> Source, each -> warm_start.json -> leaders, in a domain -> a sampler
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from miras_search.errors import UserError
from miras_search.folder import StudyFolder
from miras_search.record import write_whole
from miras_search.search.aim import apart
from miras_search.stats.ranks import normal_scores
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from miras_search.search.domain import Domain

LEADERS = 10
"""Points to begin with, at most: a source that misleads costs no more trials than these."""


class Known(BaseModel, frozen=True, extra="forbid"):
    """A finished trial of a source."""

    variant: dict[str, Any]
    lr: float
    score: float | None
    """Higher is better, whatever the task says; None if it did not complete."""


class Source(BaseModel, frozen=True, extra="forbid"):
    """An earlier study as it was when another began."""

    path: str
    """As the recipe has it."""
    study: str
    """Its id."""
    trials: tuple[Known, ...]

    @classmethod
    def of(cls, path: str) -> Source:
        """The finished trials of a study's search: the runs of its finals, many of few points,
        would push all other points down in rank.

        Raises:
            UserError: there is no study, or none of its trials completed.
        """
        folder = StudyFolder.existing(path)
        sign = 1 if folder.recipe.task.direction == "maximize" else -1
        trials = tuple(
            Known(
                variant=record.variant,
                lr=record.lr,
                score=None if record.score is None else sign * record.score,
            )
            for record in folder.records()
            if record.phase == "search"
        )
        if all(trial.score is None for trial in trials):
            raise UserError(f"warm_start: {path}: no trial has completed: expected a study of some")
        return cls(path=path, study=folder.identity["id"], trials=trials)


_SOURCES = TypeAdapter(tuple[Source, ...])


def write(file: Path, sources: Sequence[Source]) -> None:
    """Keep them in the study that begins, whatever becomes of theirs."""
    write_whole(file, _SOURCES.dump_json(tuple(sources), indent=1).decode() + "\n")


def read(file: Path) -> tuple[Source, ...]:
    """What `write` wrote; nothing of a study that began without.

    Raises:
        UserError: it is no such file.
    """
    if not file.is_file():
        return ()
    try:
        return _SOURCES.validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{file}: expected what a sweep wrote there: {why}") from None


def leaders(sources: Iterable[Source], domain: Domain[Any]) -> list[Any]:
    """The points of a domain that the sources found best, best first, `LEADERS` at most.

    Scores of one source become the normal quantiles of their ranks, so that neither level nor scale
    of its task matters; a trial that did not complete is the worst. A point that has n of them, of
    several seeds or sources, stands at their sum over n + 1: where a seed moves a score as much as
    a variant does, that is what to expect of it. Of a source's learning rates only that nearest to
    the point's counts. Points below the middle of their source are none to begin with.
    """
    found: dict[Any, list[float]] = {}
    for source in sources:
        scores = [-math.inf if t.score is None else t.score for t in source.trials]
        own: dict[Any, dict[float, list[float]]] = {}
        for trial, score in zip(source.trials, normal_scores(scores).tolist(), strict=True):
            point = domain.locate(Variant.from_dict(trial.variant), trial.lr)
            if point is not None:
                gap = apart(trial.lr, domain.candidate(point).lr)
                own.setdefault(point, {}).setdefault(gap, []).append(score)
        for point, rates in own.items():
            found.setdefault(point, []).extend(rates[min(rates)])
    expected = {point: sum(scores) / (len(scores) + 1) for point, scores in found.items()}
    best = sorted(expected, key=lambda point: -expected[point])[:LEADERS]
    return [point for point in best if expected[point] > 0]


def told(sources: Iterable[Source], domain: Domain[Any]) -> list[str]:
    """One line for each source: how much of it is of this space."""
    lines = []
    for source in sources:
        own = [domain.locate(Variant.from_dict(t.variant), t.lr) for t in source.trials]
        here = sum(point is not None for point in own)
        rest = len(own) - here
        line = f"warm start: {here} trials of {source.path} are of variants of this space"
        lines.append(f"{line}, {rest} are not" if rest else line)
    return lines

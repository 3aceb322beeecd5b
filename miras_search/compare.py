"""Studies side by side: what they asked, how their finals stand together, where their orders agree.

Scores are compared between studies whose recipes are the same; between others only ranks are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from typing import TYPE_CHECKING, Any

from miras_search import finals
from miras_search.errors import UserError
from miras_search.folder import StudyFolder
from miras_search.report.leaderboard import Entry, best_per_variant
from miras_search.stats import ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord


@dataclass(frozen=True)
class Compared:
    """One of the studies."""

    name: str
    """Where it lies, as it was given."""
    records: tuple[TrialRecord, ...]
    recipe: Recipe
    entries: tuple[Entry, ...]
    """Its distinct variants that completed, best first."""
    left: int
    """Trials of its search that did not run yet."""

    @cached_property
    def standing(self) -> finals.Standing | None:
        """Its own finals."""
        return finals.standing(self.records, self.recipe)


@dataclass(frozen=True)
class Together:
    """Studies of one recipe whose finals are judged as one."""

    names: tuple[str, ...]
    standing: finals.Standing
    found_by: tuple[tuple[str, ...], ...]
    """For each finalist the studies that ran it in their finals."""


@dataclass(frozen=True)
class Agreement:
    """How far two studies put the variants that both tried in one order."""

    names: tuple[str, str]
    shared: int
    """Variants that completed in both."""
    correlation: ranks.Correlation | None
    """Of their best scores, better against better; None for too few."""


@dataclass(frozen=True)
class Shared:
    """A variant that all studies tried."""

    entry: Entry
    ranks: tuple[int, ...]
    """In each study, among the variants that all of them tried; 1 is best."""

    @property
    def mean(self) -> float:
        """Of its ranks."""
        return sum(self.ranks) / len(self.ranks)


@dataclass(frozen=True)
class Comparison:
    """All that is said of some studies."""

    studies: tuple[Compared, ...]
    differing: tuple[str, ...]
    """Keys of their recipes that decide results and are not the same in all."""
    together: tuple[Together, ...]
    agreements: tuple[Agreement, ...]
    shared: tuple[Shared, ...]
    """Best mean rank first."""


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Read the studies in these folders and hold them against each other; nothing is written.

    Raises:
        UserError: there are not two, one is given twice, or one is not a study.
    """
    if len({StudyFolder.existing(path).path.resolve() for path in paths}) < max(2, len(paths)):
        raise UserError("compare: expected two or more different folders of studies")
    studies = tuple(_read(path) for path in paths)
    return Comparison(
        studies=studies,
        differing=_differing([study.recipe for study in studies]),
        together=tuple(_together(studies)),
        agreements=tuple(_agreement(a, b) for a, b in combinations(studies, 2)),
        shared=_shared(studies),
    )


def asked(recipe: Recipe, key: str) -> Any:
    """What a recipe says under a dotted key; None where it has no such key."""
    return _flat(recipe.deciding()).get(key)


def _read(path: str | Path) -> Compared:
    from miras_search.study import left

    folder = StudyFolder.existing(path)
    records, recipe = tuple(folder.records()), folder.recipe
    entries = best_per_variant(records, recipe)
    done = tuple(entry for entry in entries if entry.best.score is not None)
    return Compared(str(path), records, recipe, done, left(folder.space, recipe, records))


def _differing(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """Of different tasks, that they differ; how else is not a difference of one key."""
    flat = [_flat(recipe.deciding()) for recipe in recipes]
    keys = list(dict.fromkeys(key for found in flat for key in found))
    differ = [k for k in keys if any(found.get(k) != flat[0].get(k) for found in flat)]
    if "task.kind" in differ:
        differ = [k for k in differ if k == "task.kind" or not k.startswith("task.")]
    return tuple(differ)


def _flat(plain: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def _together(studies: Iterable[Compared]) -> Iterable[Together]:
    """The finals of each recipe that several studies with finals have."""

    def recipe(study: Compared) -> str:
        return study.recipe.digest

    over = sorted((study for study in studies if study.standing is not None), key=recipe)
    for _, group in groupby(over, recipe):
        same = [*group]
        if len(same) < 2:
            continue
        standing = finals.pooled((study.records, study.recipe) for study in same)
        if standing is None:
            continue
        ran = {study.name: {run[:2] for run in finals.played(study.records)} for study in same}
        found_by = [
            tuple(name for name, runs in ran.items() if (first.digest, first.lr) in runs)
            for first in (finalist.runs[0] for finalist in standing.finalists)
        ]
        yield Together(tuple(ran), standing, tuple(found_by))


def _agreement(a: Compared, b: Compared) -> Agreement:
    left, right = _better(a), _better(b)
    both = sorted(left.keys() & right.keys())
    found = ranks.correlation([left[d] for d in both], [right[d] for d in both])
    return Agreement((a.name, b.name), len(both), found)


def _better(study: Compared) -> dict[str, float]:
    """The best score of each variant, higher being better."""
    sign = 1 if study.recipe.task.direction == "maximize" else -1
    return {entry.variant.digest: sign * (entry.best.score or 0.0) for entry in study.entries}


def _shared(studies: Sequence[Compared]) -> tuple[Shared, ...]:
    everywhere = set.intersection(*(set(_better(study)) for study in studies))
    places: dict[str, list[int]] = {}
    for study in studies:
        scores = {d: score for d, score in _better(study).items() if d in everywhere}
        for digest, score in scores.items():
            ahead = sum(other > score for other in scores.values())
            places.setdefault(digest, []).append(ahead + 1)
    first = {entry.variant.digest: entry for entry in studies[0].entries}
    found = [Shared(first[digest], tuple(ranks)) for digest, ranks in places.items()]
    return tuple(sorted(found, key=lambda shared: shared.mean))

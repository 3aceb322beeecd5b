"""The finals of a study: its leading variants once more, on new seeds that are the same for all.

The new seeds have no part in who becomes a finalist, so that their scores do not flatter.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING

from miras_search import pareto
from miras_search.folder import ranked
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord
    from miras_search.stats.seeds import Chance

Run = tuple[str, float, int]
"""What is run in the finals: digest of the variant, learning rate, seed."""
SIZE = ("finalists", "ablations", "seeds", "trials")
"""Keys of a recipe that say who has a part in the finals, and how often."""


@dataclass(frozen=True)
class Finalist:
    """A variant that completed on every seed of the finals, and how it compares."""

    runs: tuple[TrialRecord, ...]
    """One for each seed, in their order."""
    mean: float
    """Of their scores."""
    margin: float | None
    """Half the width of the interval of the mean, at 95 %, whoever is first; None where all runs
    gave one score, so that none can be told."""
    tied: bool
    """Whether it is the first or cannot be told from it."""
    beaten: Chance
    """The probability that a run of the first is better than one of this; its interval is of 95 %
    for all pairs of finalists together."""

    @property
    def variant(self) -> Variant:
        """What was run."""
        return Variant.from_dict(self.runs[0].variant)

    def mean_of(self, metric: str) -> float | None:
        """Of a metric such as "test/accuracy"; None unless every run has it."""
        found = [record.metrics.get(metric) for record in self.runs]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if len(known) == len(found) else None


@dataclass(frozen=True)
class Contrast:
    """Two finalists that differ in one choice alone, and so what that choice does beside the
    others."""

    choice: str
    """An axis, the macro architecture or a side choice."""
    better: Finalist
    worse: Finalist
    gap: float
    """How far the mean of the one is behind that of the other."""
    margin: float | None
    """Half the width of the interval of the gap, at 95 % for all pairs of finalists together; None
    where all runs are alike, so that none can be told."""

    @property
    def shown(self) -> bool:
        """Whether the choice is said to make a difference."""
        return self.margin is not None and self.gap > self.margin


@dataclass(frozen=True)
class Standing:
    """The outcome of finals that are over."""

    finalists: tuple[Finalist, ...]
    """Best mean first; at least one."""
    contrasts: tuple[Contrast, ...]
    """Every pair of finalists that differ in one choice alone."""
    fallen: tuple[TrialRecord, ...]
    """Of each other finalist a run that did not complete."""
    corrected: float
    """An estimate of the mean of the first without what it owes to being the best of several."""
    ablations: frozenset[str] = frozenset()
    """The digests of those that run only since they differ from the first of the others in one
    choice."""
    unused: int = 0
    """Runs of finals that have no part in this: on seeds that not all have, or of variants that led
    when the finals had another size."""
    others: int = 0
    """Variants with a score in the search that did not run again."""
    looks: int = 1
    """How many sizes the finals had, by finalists, seeds and trials of the search: at each somebody
    may have looked."""

    @property
    def first(self) -> Finalist:
        """Who has the best mean."""
        return self.finalists[0]

    @property
    def tied(self) -> int:
        """How many others cannot be told from the first."""
        return sum(finalist.tied for finalist in self.finalists[1:])


def seeds(recipe: Recipe) -> list[int]:
    """The new seeds: the i-th depends on the recipe's seed and on i alone."""
    return [_seed(recipe.seed, i) for i in range(recipe.seeds)]


def wanted(records: Iterable[TrialRecord], recipe: Recipe) -> dict[Run, TrialRecord]:
    """Every run of the finals, seed by seed, with the trial of the search that it repeats.

    Those are the leading distinct variants as the search has found them so far, each at its best
    learning rate: by score, in the mean over seeds where studies were merged, or, with several
    objectives, first those on the front. With ablations, once these have ended they are also, for
    each choice of the first of them, the best variant of the search that differs from it in that
    choice alone. Nothing that they score had a part in that, so that what holds for all finalists
    together holds for them.
    """
    records = list(records)
    scores: dict[tuple[str, float], list[float]] = {}
    complete = [record for record in ranked(records, recipe) if record.score is not None]
    for record in complete:
        scores.setdefault((record.digest, record.lr), []).append(record.score or 0.0)
    means = {point: fmean(own) for point, own in scores.items()}
    better = recipe.task.direction == "maximize"
    complete.sort(key=lambda record: means[record.digest, record.lr], reverse=better)
    leading: dict[str, TrialRecord] = {}
    for record in complete:
        leading.setdefault(record.digest, record)
    done = [*leading.values()]
    chosen = done[: recipe.finalists]
    if len(recipe.objectives) > 1:
        losses = pareto.losses(done, recipe, recipe.objectives)
        chosen = [done[i] for i in pareto.leading(losses, recipe.finalists)]
    runs = {(r.digest, r.lr, seed): r for seed in seeds(recipe) for r in chosen}
    if recipe.ablations and (first := _first(chosen, played(records), recipe)):
        known = {record.digest for record in chosen}
        more = [r for r in _ablations(first, done) if r.digest not in known]
        runs |= {(r.digest, r.lr, seed): r for seed in seeds(recipe) for r in more}
    return runs


def leading(records: Iterable[TrialRecord], recipe: Recipe) -> dict[Run, TrialRecord]:
    """The runs of those that lead the search: all but the ablations."""
    return wanted(records, recipe.model_copy(update={"ablations": False}))


def settled(records: Iterable[TrialRecord], recipe: Recipe) -> bool:
    """Whether it is known who has a part in the finals, if the search has ended."""
    records = list(records)
    return not recipe.ablations or leading(records, recipe).keys() <= played(records).keys()


def _first(
    chosen: Iterable[TrialRecord], done: dict[Run, TrialRecord], recipe: Recipe
) -> TrialRecord | None:
    """Who of some has the best mean over all seeds; None before all have ended, or if none did."""
    import numpy as np

    sign, whole = 1 if recipe.task.direction == "maximize" else -1, []
    for record in chosen:
        runs = [done.get((record.digest, record.lr, seed)) for seed in seeds(recipe)]
        if None in runs:
            return None
        scores = [run.score for run in runs if run is not None and run.score is not None]
        if len(scores) == len(runs):
            # In the same digits as `_judged` has them, which tells ties.
            whole.append((float(np.mean(sign * np.array(scores))), record))
    return max(whole, key=lambda one: one[0])[1] if whole else None


def _ablations(first: TrialRecord, others: Iterable[TrialRecord]) -> list[TrialRecord]:
    """For each choice the best of the others, best first, that differs from one in it alone: one of
    another kind, where there is one."""
    found: dict[str, dict[bool, TrialRecord]] = {}
    one = json.dumps(first.variant)
    for other in others:
        if choice := _difference(one, json.dumps(other.variant)):
            mine, theirs = first.variant[choice], other.variant[choice]
            alike = isinstance(mine, dict) and mine["kind"] == theirs["kind"]
            found.setdefault(choice, {}).setdefault(alike, other)
    return [best.get(False) or best[True] for best in found.values()]


@lru_cache(maxsize=10_000)
def _difference(one: str, other: str) -> str | None:
    """The single choice in which two variants differ, written as JSON."""
    return Variant.from_dict(json.loads(one)).single_difference(
        Variant.from_dict(json.loads(other))
    )


def played(records: Iterable[TrialRecord]) -> dict[Run, TrialRecord]:
    """The runs of the finals that have ended."""
    return {(r.digest, r.lr, r.seed): r for r in records if r.phase == "finals"}


def over(records: Iterable[TrialRecord], recipe: Recipe) -> bool:
    """Whether there were finals, and all of their runs have ended."""
    done = played(records := list(records))
    return bool(done) and wanted(records, recipe).keys() <= done.keys()


def standing(records: Iterable[TrialRecord], recipe: Recipe) -> Standing | None:
    """How the finals came out; None without finals, before their end, or if none completed."""
    return pooled([(records, recipe)])


def pooled(studies: Iterable[tuple[Iterable[TrialRecord], Recipe]]) -> Standing | None:
    """The finals of studies whose recipes have one digest as if they were one, on the seeds that
    all of them ran; None unless each has finals that are over.

    A study's finals go on with the same seeds as another's, and nobody became a finalist by them.
    What two studies ran alike counts once.
    """
    rows: dict[tuple[str, float], dict[int, TrialRecord]] = {}
    leaders: set[str] = set()
    scored: set[str] = set()
    shared: list[list[int]] = []
    ended: set[Run] = set()
    sign = looks = 1
    for records, recipe in studies:
        if not over(records := list(records), recipe):
            return None
        done = played(records)
        # More trials may have brought other finalists, and smaller finals leave some out.
        sizes = {tuple(run.recipe.get(key, False) for key in SIZE) for run in done.values()}
        asked = tuple(getattr(recipe, key) for key in SIZE)
        if asked[:-1] not in {size[:-1] for size in sizes}:
            sizes.add(asked)
        for run in wanted(records, recipe):
            rows.setdefault(run[:2], {}).setdefault(run[2], done[run])
        ended |= done.keys()
        leaders |= {digest for digest, *_ in leading(records, recipe)}
        scored |= {r.digest for r in records if r.phase == "search" and r.score is not None}
        shared.append(seeds(recipe))
        looks = max(looks, len(sizes))
        sign = 1 if recipe.task.direction == "maximize" else -1
    each = [[row[seed] for seed in min(shared, key=len)] for row in rows.values()]
    whole = [row for row in each if all(run.score is not None for run in row)]
    fallen = [next((run for run in row if run.score is None), None) for row in each]
    if not whole:
        return None
    ran = frozenset(digest for digest, _ in rows)
    judged = _judged(whole, (*filter(None, fallen),), sign)
    unused = len(ended) - sum(map(len, each))
    return replace(
        judged, looks=looks, ablations=ran - leaders, others=len(scored - ran), unused=unused
    )


def _judged(
    rows: list[list[TrialRecord]],
    fallen: tuple[TrialRecord, ...],
    sign: int,
    value: Callable[[TrialRecord], float | None] = lambda run: run.score,
    among: int = 1,
) -> Standing:
    import numpy as np

    from miras_search.stats import seeds as stats

    scores = sign * np.array([[value(run) for run in row] for row in rows], dtype=float)
    order = np.argsort(-scores.mean(axis=1), kind="stable")
    scores = scores[order]
    behind, needed = stats.gaps(scores, among=among)
    finalists = tuple(
        Finalist(
            runs=tuple(rows[row]),
            mean=float(sign * own.mean()),
            margin=_told(margin),
            tied=bool(gap <= least),
            beaten=beaten,
        )
        for row, own, margin, gap, least, beaten in zip(
            order,
            scores,
            stats.margins(scores),
            behind,
            needed,
            stats.superiority(scores),
            strict=True,
        )
    )
    # Studies together may have one variant at several rates: at the best of them.
    best = {f.variant.digest: i for i, f in reversed([*enumerate(finalists)])}
    contrasts = []
    for i in sorted(best.values()):
        behind, needed = stats.gaps(scores, i, among)
        better = finalists[i]
        for j in sorted(k for k in best.values() if k > i):
            worse = finalists[j]
            if choice := better.variant.single_difference(worse.variant):
                gap, margin = float(behind[j]), _told(needed[j])
                contrasts.append(Contrast(choice, better, worse, gap, margin))
    corrected = float(sign * stats.cross_validated(scores))
    return Standing(finalists, tuple(contrasts), fallen, corrected)


def _told(margin: float) -> float | None:
    return float(margin) if margin < float("inf") else None


def judged_by(outcome: Standing, recipe: Recipe, metric: str, among: int = 1) -> Standing | None:
    """The same runs by another metric, such as "512/accuracy", ties in the order that they have;
    None unless every run has it. Where it is one `among` several, who is told from whom holds for
    all of these together."""
    if any(finalist.mean_of(metric) is None for finalist in outcome.finalists):
        return None
    sign = 1 if recipe.task.direction == "maximize" else -1
    rows = [[*finalist.runs] for finalist in outcome.finalists]
    again = _judged(rows, (), sign, lambda run: run.metrics[metric], among)
    kept = {name: getattr(outcome, name) for name in ("looks", "ablations", "others", "unused")}
    return replace(again, **kept)


def kept(records: Iterable[TrialRecord], recipe: Recipe) -> list[TrialRecord]:
    """The trials whose weights are kept: those that may win or, if the recipe says so, all."""
    records = list(records)
    if recipe.weights == "all":
        return [record for record in records if record.score is not None]
    return candidates(records, recipe)


def candidates(records: Iterable[TrialRecord], recipe: Recipe) -> list[TrialRecord]:
    """The best trial of the search, and the best of each finalist: a study may be resumed with more
    trials or more seeds, and another may win."""
    sign, records = 1 if recipe.task.direction == "maximize" else -1, list(records)
    found: dict[tuple[str, float], TrialRecord] = {}
    # Ties by number, in whatever order they came: only the weights of these are kept.
    for record in sorted(records, key=lambda record: record.number):
        if record.phase == "finals" and record.score is not None:
            own = found.setdefault((record.digest, record.lr), record)
            if sign * record.score > sign * (own.score or 0.0):
                found[record.digest, record.lr] = record
    return [r for r in ranked(records, recipe)[:1] if r.score is not None] + [*found.values()]


def winner(records: Iterable[TrialRecord], recipe: Recipe) -> TrialRecord | None:
    """The trial that stands for the study: the best run of the first of the finals, or, before
    there is one, the best trial of the search; None if no trial completed."""
    records = list(records)
    able = candidates(records, recipe)
    if (outcome := standing(records, recipe)) is not None:
        first = outcome.first.runs[0]
        return next(
            r for r in able if r.phase == "finals" and (r.digest, r.lr) == (first.digest, first.lr)
        )
    return able[0] if able and able[0].phase == "search" else None


def _seed(root: int, i: int) -> int:
    return random.Random(f"{root}/finals/{i}").getrandbits(32)

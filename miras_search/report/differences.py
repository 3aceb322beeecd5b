"""What made a difference: the effects of axes, of pairs of them and of settings in a study."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from miras_search import samplers
from miras_search.registry import CHOICES
from miras_search.stats.effects import Effect, choices, effects, goes_with
from miras_search.variant import side_choices_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miras_search.recipe import Recipe
    from miras_search.report.leaderboard import Entry
    from miras_search.stats.effects import Array
    from miras_search.variant import Variant

RATE = "learning rate"
ALARMS, LEARNED = 0.05, 0.01
"""Largest q-value of an effect that is shown, and where a sampler learned from scores: it tries
more of what did well by chance, so that shuffled scores look less extreme than they are."""
LEAST = 12
"""Variants below which nothing is looked for."""
MUCH = 0.5
"""Of the variance of a setting, what an axis explains if they go together."""

Fields: TypeAlias = dict[str, list[float | str | None]]
"""A value of each variant by name; None where it has none."""


@dataclass(frozen=True)
class Company:
    """What one kind of an axis of two does, beside each kind of another axis."""

    axis: str
    better: str
    """The kind of it that has the better mean."""
    other: str
    gains: dict[str, float]
    """Of the better kind over the other, in the score and above 0 where it is better, by the kind
    that they are beside, largest first; all further axes equal."""


@dataclass(frozen=True)
class Differences:
    """Effects on the best score of each variant."""

    variants: int
    seeds: tuple[int, ...]
    """Of the runs that these scores are of."""
    alone: tuple[Variant, ...]
    """Left out, since they have a kind that no other variant has."""
    axes: list[str]
    """That differ, by their kinds."""
    found: dict[str, Effect]
    """Every effect by its name: an axis, "one x other" of two axes, or a setting."""
    least: float
    """The q-value up to which an effect is shown."""
    against_mean: dict[str, dict[str, float | None]]
    """For each axis the kinds against the mean of the axis, best first, all other axes equal; None
    where the trials do not tell."""
    companies: dict[str, Company]
    """For each pair of axes of which one has two kinds, what these do beside each kind of the
    other. None of a pair where the trials do not tell."""

    @property
    def judged(self) -> list[Effect]:
        """Effects that the trials could tell, largest first."""
        told = [effect for effect in self.found.values() if effect.p is not None]
        return sorted(told, key=lambda effect: (-(effect.share or 0.0), effect.p or 0.0))

    @property
    def shown(self) -> list[Effect]:
        """Effects that are said to be there, largest first."""
        return [effect for effect in self.judged if self.shows(effect)]

    def shows(self, effect: Effect | None) -> bool:
        """Whether an effect is said to be there."""
        return effect is not None and effect.q is not None and effect.q <= self.least

    def of(self, one: str, other: str) -> Effect | None:
        """The effect of an axis, where both are the same, or of a pair."""
        if one == other:
            return self.found.get(one)
        return self.found.get(f"{one} x {other}") or self.found.get(f"{other} x {one}")

    @property
    def settings(self) -> list[Effect]:
        """Judged effects of settings."""
        pairs = {f"{a} x {b}" for a in self.axes for b in self.axes}
        return [e for e in self.judged if e.name not in pairs and e.name not in self.axes]


def differences(entries: Sequence[Entry], recipe: Recipe) -> Differences | None:
    """What is to be said of the variants with a score; None of too few."""
    scored = [entry for entry in entries if entry.best.score is not None]
    entries = _in_company(scored)
    if len(entries) < LEAST:
        return None
    scores = np.array([entry.best.score for entry in entries], dtype=float)
    axes = {
        axis: [entry.variant.choices()[axis].kind for entry in entries]
        for axis in CHOICES
        if len({entry.variant.choices()[axis].kind for entry in entries}) > 1
    }
    chosen = {
        name: [None if value is None else _coded(value) for value in values]
        for name, values in side_choices_of([entry.variant for entry in entries]).items()
    }
    settings = _varying(_settings(entries) | chosen)
    # What is no axis and yet goes with one may have done what the axis seems to do. A best score is
    # also better the more were tried, and the rates that were tried are no outcome, as the best is.
    tried: Fields = {
        "trials": [float(len(entry.complete)) for entry in entries],
        "seed": [str(entry.best.seed) for entry in entries],
        RATE: [float(np.mean(np.log(sorted(t.lr for t in entry.trials)))) for entry in entries],
    }
    sides = _varying(chosen | tried) | {
        name: values
        for name, values in settings.items()
        if any(goes_with(values, kinds) >= MUCH for kinds in axes.values())
    }
    told = {effect.name: effect for effect in effects(scores, axes, settings, beside=sides)}
    means = choices(scores, axes, sides) if axes else {}
    sign = 1 if recipe.task.direction == "maximize" else -1
    ordered = {axis: _best_first(means[axis], sign) for axis in axes}
    # Each trial's own, as a study may go on with another sampler, and one of several has them all.
    used = {trial.recipe["sampler"] for entry in entries for trial in entry.trials}
    least = LEARNED if any(samplers.find(name).learns for name in used) else ALARMS
    companies = {
        " x ".join(pair): found
        for pair in combinations(axes, 2)
        if (found := _company(scores, axes, sides, pair, ordered, sign))
    }
    seeds = tuple(sorted({entry.best.seed for entry in entries}))
    judged = {entry.variant.digest for entry in entries}
    alone = tuple(entry.variant for entry in scored if entry.variant.digest not in judged)
    return Differences(len(entries), seeds, alone, list(axes), told, least, ordered, companies)


def _company(
    scores: Array,
    axes: dict[str, list[str]],
    sides: Fields,
    pair: tuple[str, str],
    ordered: dict[str, dict[str, float | None]],
    sign: int,
) -> Company | None:
    # The later one, if both have two kinds: what it does beside a memory, say.
    two = [axis for axis in pair if len(ordered[axis]) == 2]
    if not two:
        return None
    axis = two[-1]
    (beside,) = {*pair} - {axis}
    rest = {name: kinds for name, kinds in axes.items() if name not in pair}
    both = [f"{kind} {own}" for kind, own in zip(axes[beside], axes[axis], strict=True)]
    cells = choices(scores, {"both": both, **rest}, sides)["both"]
    better, other = ordered[axis]
    gains = {}
    for kind in ordered[beside]:
        high, low = cells.get(f"{kind} {better}"), cells.get(f"{kind} {other}")
        if high is None or low is None:
            return None
        gains[kind] = sign * (high - low)
    return Company(axis, better, other, dict(sorted(gains.items(), key=lambda gain: -gain[1])))


def _in_company(entries: list[Entry]) -> list[Entry]:
    """Those whose every kind some other has: what a kind does cannot be told from the one variant
    that has it."""
    for axis in CHOICES:
        have = Counter(entry.variant.choices()[axis].kind for entry in entries)
        kept = [entry for entry in entries if have[entry.variant.choices()[axis].kind] > 1]
        if len(kept) < len(entries):
            return _in_company(kept)
    return entries


def _settings(entries: Sequence[Entry]) -> Fields:
    """Settings of the kinds that were chosen on the axes, and the rate where each variant had but
    one: the best of several is no choice, but comes of the scores."""
    rows = []
    for entry in entries:
        row: dict[str, Any] = {}
        for axis, choice in entry.variant.choices().items():
            row |= {f"{axis}.{choice.kind}.{k}": v for k, v in choice.model_dump().items()}
        rows.append(row)
    if all(len({trial.lr for trial in entry.trials}) == 1 for entry in entries):
        for entry, row in zip(entries, rows, strict=True):
            row[RATE] = entry.best.lr
    names = sorted({name for row in rows for name in row})
    return {name: [_coded(row[name]) if name in row else None for row in rows] for name in names}


def _varying(fields: Fields) -> Fields:
    """Those with at least two values."""
    return {
        name: values
        for name, values in fields.items()
        if len({value for value in values if value is not None}) > 1
    }


def _coded(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else str(value)


def _best_first(found: dict[str, float | None], sign: int) -> dict[str, float | None]:
    def order(kind: str) -> tuple[bool, float]:
        value = found[kind]
        return value is None, -sign * (value or 0.0)

    return {kind: found[kind] for kind in sorted(found, key=order)}

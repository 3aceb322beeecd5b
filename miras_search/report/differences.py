"""What made a difference: the effects of axes, of pairs of them and of settings in a study."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from miras_search import samplers
from miras_search.registry import CHOICES
from miras_search.stats.effects import Effect, choices, effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miras_search.recipe import Recipe
    from miras_search.report.leaderboard import Entry
    from miras_search.stats.effects import Array

RATE = "learning rate"
ALARMS, LEARNED = 0.05, 0.01
"""Largest q-value of an effect that is shown, and where a sampler learned from scores: it tries
more of what did well by chance, so that shuffled scores look less extreme than they are."""
LEAST = 12
"""Variants below which nothing is looked for."""


@dataclass(frozen=True)
class Differences:
    """Effects on the best score of each variant."""

    variants: int
    axes: list[str]
    """That differ, by their kinds."""
    found: dict[str, Effect]
    """Every effect by its name: an axis, "one x other" of two axes, or a setting."""
    least: float
    """The q-value up to which an effect is shown."""
    against_mean: dict[str, dict[str, float | None]]
    """For each axis the kinds against the mean of the axis, best first, all other axes equal; None
    where the trials do not tell."""
    gains: dict[str, dict[str, float]]
    """For each pair of axes of two kinds each: beside each kind of the one, how far the better kind
    of the other is above its second, all further axes equal. None of a pair where the trials do not
    tell."""

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
    entries = _in_company([entry for entry in entries if entry.best.score is not None])
    if len(entries) < LEAST:
        return None
    scores = np.array([entry.best.score for entry in entries], dtype=float)
    axes = {
        axis: [entry.variant.choices()[axis].kind for entry in entries]
        for axis in CHOICES
        if len({entry.variant.choices()[axis].kind for entry in entries}) > 1
    }
    rows = [_settings(entry) for entry in entries]
    names = sorted({name for row in rows for name in row})
    settings = {name: [row.get(name) for row in rows] for name in names}
    # What is no axis and yet goes with one may have done what the axis seems to do.
    chosen = [entry.variant.side_choices() for entry in entries]
    sides = [[_coded(row[name]) for row in chosen] for name in chosen[0]]
    sides = [values for values in sides if len({*values}) > 1]
    found = {effect.name: effect for effect in effects(scores, axes, settings, beside=sides)}
    means = choices(scores, axes, sides) if axes else {}
    sign = 1 if recipe.task.direction == "maximize" else -1
    ordered = {axis: _best_first(means[axis], sign) for axis in axes}
    # Each trial's own, as a study may go on with another sampler, and one of several has them all.
    used = {trial.recipe["sampler"] for entry in entries for trial in entry.trials}
    least = LEARNED if any(samplers.find(name).learns for name in used) else ALARMS
    gains = {
        f"{one} x {other}": gained
        for one, other in combinations(axes, 2)
        if (gained := _gains(scores, axes, sides, one, other, ordered))
    }
    return Differences(len(entries), list(axes), found, least, ordered, gains)


def _gains(
    scores: Array,
    axes: dict[str, list[str]],
    sides: list[list[float | str]],
    one: str,
    other: str,
    ordered: dict[str, dict[str, float | None]],
) -> dict[str, float]:
    if len(ordered[one]) != 2 or len(ordered[other]) != 2:
        return {}
    rest = {axis: kinds for axis, kinds in axes.items() if axis not in (one, other)}
    both = [f"{a} {b}" for a, b in zip(axes[one], axes[other], strict=True)]
    cells = choices(scores, {"both": both, **rest}, sides)["both"]
    better, second = ordered[other]
    gained = {}
    for kind in ordered[one]:
        high, low = cells.get(f"{kind} {better}"), cells.get(f"{kind} {second}")
        if high is None or low is None:
            return {}
        gained[kind] = high - low
    return gained


def _in_company(entries: list[Entry]) -> list[Entry]:
    """Those whose every kind some other has: what a kind does cannot be told from the one variant
    that has it."""
    for axis in CHOICES:
        have = Counter(entry.variant.choices()[axis].kind for entry in entries)
        kept = [entry for entry in entries if have[entry.variant.choices()[axis].kind] > 1]
        if len(kept) < len(entries):
            return _in_company(kept)
    return entries


def _settings(entry: Entry) -> dict[str, float | str]:
    """Settings by name: of the variant, and of the kind that was chosen on each axis."""
    variant = entry.variant
    found: dict[str, Any] = {RATE: entry.best.lr, **variant.side_choices()}
    for axis, choice in variant.choices().items():
        found |= {f"{axis}.{choice.kind}.{k}": v for k, v in choice.model_dump().items()}
    return {name: _coded(value) for name, value in found.items()}


def _coded(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else str(value)


def _best_first(found: dict[str, float | None], sign: int) -> dict[str, float | None]:
    def order(kind: str) -> tuple[bool, float]:
        value = found[kind]
        return value is None, -sign * (value or 0.0)

    return {kind: found[kind] for kind in sorted(found, key=order)}

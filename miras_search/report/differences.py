"""What made a difference: the effects of axes, of pairs of them and of settings in a study."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from miras_search import samplers
from miras_search.registry import CHOICES
from miras_search.stats.effects import FEW, TOGETHER, Design, Effect, many, means, one_hot
from miras_search.variant import settings_of, side_choices_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from miras_search.recipe import Recipe
    from miras_search.report.leaderboard import Entry
    from miras_search.stats.effects import Array, Means
    from miras_search.variant import Variant

RATE = "learning rate"
ALARMS, LEARNED = 0.05, 0.02
"""Largest q-value of an effect that is shown, and where a sampler learned from scores: it tries
more of what did well by chance, so that chance looks less extreme than it is."""
SHUFFLES = 999
"""Of failures among variants, to see whether they go with an axis."""
LEAST = 12
"""Variants below which nothing is looked for."""

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
    margins: dict[str, float | None]
    """Half the widths of the intervals of these, at 95 % for all of them together."""


@dataclass(frozen=True)
class Differences:
    """Effects on the score of each variant."""

    variants: int
    seeds: tuple[int, ...]
    """Of the runs that these scores are of."""
    averaged: bool
    """Whether a score is the mean over these seeds of the best with each, not one best."""
    alone: tuple[Variant, ...]
    """Left out, since they have a kind that no other variant has."""
    fallen: dict[str, dict[str, tuple[int, int]]]
    """For each axis and setting that variants without a score go with, of each kind or value how
    many have none, and of how many: nothing is told of it, as the others may be the lucky ones."""
    axes: list[str]
    """That differ, by their kinds."""
    found: dict[str, Effect]
    """Every effect by its name: an axis, "one x other" of two axes, or a setting."""
    least: float
    """The q-value up to which an effect is shown."""
    against_mean: dict[str, dict[str, float | None]]
    """For each axis the kinds, and for each judged setting of few values these, against their mean,
    best first, all else equal; None where the trials do not tell."""
    own_margins: dict[str, dict[str, float | None]]
    """Half the widths of the intervals of these, at 95 % for all of an axis or setting together;
    None where it is not known."""
    margins: dict[str, float | None]
    """For each of these half the width of the interval of how far the best is ahead of the last, at
    95 % for all pairs of them together; None where it is not known."""
    companies: dict[str, Company]
    """For each pair of axes of which one has two kinds, what these do beside each kind of the
    other. None of a pair where the trials do not tell."""

    @property
    def judged(self) -> list[Effect]:
        """Effects that the trials could tell, largest first."""
        told = [effect for effect in self.found.values() if effect.p is not None]
        return sorted(told, key=lambda effect: (-(effect.share or 0.0), effect.p or 0.0))

    @property
    def together(self) -> list[Effect]:
        """Effects that are not told of, beside what they go with."""
        return [e for e in self.found.values() if e.p is None and e.goes_with]

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
        """Effects of settings, those that the trials could tell first, largest first."""
        pairs = {f"{a} x {b}" for a in self.axes for b in self.axes}
        every = [*self.judged, *(e for e in self.found.values() if e.p is None)]
        return [e for e in every if e.name not in pairs and e.name not in self.axes]


def differences(entries: Sequence[Entry], recipe: Recipe) -> Differences | None:
    """What is to be said of the variants with a score; None of too few."""
    scored = [entry for entry in entries if entry.best.score is not None]
    judged = _in_company(scored)
    if len(judged) < LEAST:
        return None
    variants = [entry.variant for entry in judged]
    kinds = {axis: [variant.choices()[axis].kind for variant in variants] for axis in CHOICES}
    axes = {axis: own for axis, own in kinds.items() if len({*own}) > 1}
    scores, seeds, averaged = _scores(judged)
    if averaged:
        own = (tuple(trial for trial in e.trials if trial.seed in seeds) for e in judged)
        judged = [replace(e, trials=trials) for e, trials in zip(judged, own, strict=True)]
    chosen, tried = _coded(side_choices_of(variants)), _tried(judged, recipe, averaged)
    settings = _coded(settings_of(variants)) | chosen
    # The best of several rates is no choice, but comes of the scores.
    if all(entry.rates == 1 for entry in judged):
        settings[RATE] = tried[RATE]
    design = Design(scores, axes, _varying(settings), _varying(chosen | tried))
    fallen = _fallen(entries, axes, settings)
    found = {effect.name: effect for effect in design.effects()}
    for name in found:
        if {*name.split(" x ")} & {*fallen}:
            found[name] = Effect(name, found[name].variants)
    told = [name for name, effect in found.items() if effect.p is not None and " x " not in name]
    every = {name: design.choices(name) for name in (*axes, *told)}
    sign = 1 if recipe.task.direction == "maximize" else -1
    ordered = {name: _best_first(own.of, sign) for name, own in every.items() if own}
    companies = {
        " x ".join(pair): company
        for pair in combinations(axes, 2)
        if (company := _company(design, pair, ordered, sign))
    }
    # Each trial's own, as a study may go on with another sampler, and one of several has them all.
    used = {trial.recipe["sampler"] for entry in judged for trial in entry.trials}
    return Differences(
        variants=len(judged),
        seeds=seeds,
        averaged=averaged,
        alone=tuple(entry.variant for entry in scored if entry.variant not in variants),
        fallen=fallen,
        axes=[*axes],
        found=found,
        least=LEARNED if any(samplers.find(name).learns for name in used) else ALARMS,
        against_mean=ordered,
        own_margins={
            name: {kind: own.own_margin(kind) for kind in ordered[name]}
            for name, own in every.items()
            if own
        },
        margins={name: _margin(own, ordered[name]) for name, own in every.items() if own},
        companies=companies,
    )


def _scores(entries: Sequence[Entry]) -> tuple[Array, tuple[int, ...], bool]:
    """The score that each counts by, the seeds of these, and whether they are means over all."""
    best: list[dict[int, float]] = []
    for entry in entries:
        best.append({})
        for trial in entry.complete:
            best[-1].setdefault(trial.seed, trial.score or 0.0)
    # Where all had some seeds, what one of them gives to a score does not stand for the others.
    if len(shared := sorted(frozenset.intersection(*map(frozenset, best)))) > 1:
        each = [np.mean([own[seed] for seed in shared]) for own in best]
        return np.array(each, dtype=float), tuple(shared), True
    seeds = tuple(sorted({entry.best.seed for entry in entries}))
    return np.array([entry.best.score for entry in entries], dtype=float), seeds, False


def _tried(entries: Sequence[Entry], recipe: Recipe, averaged: bool) -> Fields:
    """What was done with each variant: a best score is better the more was tried, and what was
    tried is no outcome, as the best of it is."""
    return {
        "trials": [float(len(entry.complete)) for entry in entries],
        "seed": ["all" if averaged else str(entry.best.seed) for entry in entries],
        RATE: [round(float(np.mean([*map(math.log, entry.lrs)])), 9) for entry in entries],
        "reach": _reach(entries, recipe),
    }


def _reach(entries: Sequence[Entry], recipe: Recipe) -> list[float | str | None]:
    """What the best rate that each variant tried is worth: how far trials at a rate are ahead of
    those of the same variant at others, over all variants. None of more than a few rates."""
    trials = [(i, trial) for i, entry in enumerate(entries) for trial in entry.complete]
    rates = [f"{trial.lr:g}" for _, trial in trials]
    if not 1 < len({*rates}) <= FEW:
        return [None] * len(entries)
    scores = np.array([trial.score for _, trial in trials], dtype=float)
    worth = means(scores, rates, [one_hot([str(i) for i, _ in trials])]).of
    pick = max if recipe.task.direction == "maximize" else min
    found: list[float | str | None] = []
    for entry in entries:
        known = [worth[f"{trial.lr:g}"] for trial in entry.complete]
        found.append(pick((value for value in known if value is not None), default=None))
    return found


def _fallen(
    entries: Sequence[Entry], axes: dict[str, list[str]], settings: Iterable[str]
) -> dict[str, dict[str, tuple[int, int]]]:
    """The axes and settings of whose kinds or values some have no score more often, by shuffles; of
    each of these how many have none, and of how many."""
    rng, found = np.random.default_rng(0), {}
    variants = [entry.variant for entry in entries]
    fields: dict[str, list[str | None]] = {}
    for axis, kinds in axes.items():
        every = (variant.choices()[axis].kind for variant in variants)
        fields[axis] = [kind if kind in kinds else None for kind in every]
    values = _coded(settings_of(variants) | side_choices_of(variants))
    fields |= {name: _grouped(values[name]) for name in settings if name in values}
    for name, groups in fields.items():
        pairs = zip(groups, entries, strict=True)
        own = [(group, entry.best.score is None) for group, entry in pairs if group is not None]
        fell = np.array([float(fell) for _, fell in own])
        if not fell.any():
            continue
        columns = one_hot([group for group, _ in own])
        draws = rng.permuted(np.tile(fell, (SHUFFLES, 1)), axis=1)
        apart = ((np.vstack([fell, draws]) @ columns) ** 2 / columns.sum(axis=0)).sum(axis=1)
        if np.mean(apart >= apart[0] - 1e-9) <= TOGETHER:
            names = np.unique([group for group, _ in own])
            counts = zip(names, fell @ columns, columns.sum(axis=0), strict=True)
            found[name] = {str(group): (int(n), int(of)) for group, n, of in counts}
    return found


def _grouped(values: Sequence[float | str | None]) -> list[str | None]:
    """Values in words; many numbers in two halves."""
    known = [value for value in values if value is not None]
    if many(known):
        middle = float(np.median(np.array(known, dtype=float)))
        halves = (f"up to {middle:g}", f"above {middle:g}")
        return [None if x is None else halves[float(x) > middle] for x in values]
    return [x if x is None or isinstance(x, str) else f"{x:g}" for x in values]


def _margin(own: Means, ordered: dict[str, float | None]) -> float | None:
    known = [kind for kind, value in ordered.items() if value is not None]
    if len(known) < 2:
        return None
    return own.margin(known[0], known[-1], math.comb(len(known), 2))


def _company(
    design: Design, pair: tuple[str, str], ordered: dict[str, dict[str, float | None]], sign: int
) -> Company | None:
    # The later one, if both have two kinds: what it does beside a memory, say.
    two = [axis for axis in pair if len(ordered[axis]) == 2]
    if not two:
        return None
    axis = two[-1]
    (beside,) = {*pair} - {axis}
    cells = design.cells(beside, axis)
    better, other = ordered[axis]
    gains, margins = {}, {}
    for kind in ordered[beside]:
        high, low = cells.of.get(f"{kind} {better}"), cells.of.get(f"{kind} {other}")
        if high is None or low is None:
            return None
        gains[kind] = sign * (high - low)
        ends = (f"{kind} {better}", f"{kind} {other}")
        margins[kind] = cells.margin(*ends, comparisons=len(ordered[beside]))
    gains = dict(sorted(gains.items(), key=lambda gain: -gain[1]))
    return Company(axis, better, other, gains, margins)


def _in_company(entries: list[Entry]) -> list[Entry]:
    """Those whose every kind some other has: what a kind does cannot be told from the one variant
    that has it."""
    for axis in CHOICES:
        have = Counter(entry.variant.choices()[axis].kind for entry in entries)
        kept = [entry for entry in entries if have[entry.variant.choices()[axis].kind] > 1]
        if len(kept) < len(entries):
            return _in_company(kept)
    return entries


def _varying(fields: Fields) -> Fields:
    """Those with at least two values."""
    return {
        name: values
        for name, values in fields.items()
        if len({value for value in values if value is not None}) > 1
    }


def _coded(fields: dict[str, list[Any]]) -> Fields:
    def code(value: Any) -> float | str | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if value is None else float(value) if number else str(value)

    return {name: [*map(code, values)] for name, values in fields.items()}


def _best_first(found: dict[str, float | None], sign: int) -> dict[str, float | None]:
    def order(kind: str) -> tuple[bool, float]:
        value = found[kind]
        return value is None, -sign * (value or 0.0)

    return {kind: found[kind] for kind in sorted(found, key=order)}

"""What made a difference: effects of axes, of pairs of them, and of settings within a kind.

One test serves all three: how much of what other columns leave of the scores some further columns
explain, against the same with those leftovers shuffled (Freedman and Lane 1983), as often as it
takes to tell (Besag and Clifford 1991).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SHUFFLES = 9999
"""At most; the smallest p-value is one over one more."""
BATCH = 250
"""Shuffles at once."""
ENOUGH = 25
"""Shuffles that explain as much, after which no more are needed: the p-value is their share."""
LEAST = 5
"""Degrees of freedom that must be left to judge by."""


@dataclass(frozen=True)
class Effect:
    """What an axis, a pair of axes or a setting explains; None where the design does not tell."""

    name: str
    variants: int
    """That it was looked for in."""
    share: float | None = None
    """Of the variance that the axes leave, without what chance explains; at least 0."""
    p: float | None = None
    q: float | None = None
    """The p-value after Benjamini and Hochberg (1995), over all that was tested."""


def effects(
    scores: Array,
    axes: Mapping[str, Sequence[str]],
    settings: Mapping[str, Sequence[float | str | None]],
    seed: int = 0,
    beside: Mapping[str, Sequence[float | str | None]] | None = None,
) -> list[Effect]:
    """Every axis, every pair of axes, and every setting among the variants that have it.

    `scores` are [n], one for each variant; axes and settings have n values each. An axis is judged
    beside all other axes and what else varies, `beside`, so that it is not told where these go
    together; a pair beside all of these. A setting is None where a variant has none, and is judged
    beside all of these but itself among the others: numbers by their rank and its square.
    """
    rng = np.random.default_rng(seed)
    named = {name: coded(values) for name, values in (beside or {}).items()}
    sides = [*named.values()]
    columns = {name: one_hot(values) for name, values in axes.items()}
    columns = {name: made for name, made in columns.items() if made.shape[1] > 1}
    found = []
    for name, added in columns.items():
        others = [made for other, made in columns.items() if other != name]
        found.append(explained(name, scores, [*others, *sides], added, rng))
    for (a, left), (b, right) in combinations(columns.items(), 2):
        added = (left[:, :, None] * right[:, None, :]).reshape(len(scores), -1)
        found.append(explained(f"{a} x {b}", scores, [*columns.values(), *sides], added, rng))
    for name, values in settings.items():
        has = np.array([value is not None for value in values])
        own = [value for value in values if value is not None]
        if len({*own}) > 1:
            others = [*columns.values(), *(made for side, made in named.items() if side != name)]
            others = [made[has] for made in others]
            found.append(explained(name, scores[has], others, coded(own), rng))
    return _controlled(found)


def explained(
    name: str, scores: Array, beside: Sequence[Array], added: Array, rng: np.random.Generator
) -> Effect:
    """What the columns `added` [n, k] explain of scores [n] beside others and a mean."""
    n = len(scores)
    base = _basis(np.column_stack([np.ones(n), *beside]))
    new = _basis(_without(base, added))
    freedom = n - base.shape[1]
    left = _without(base, scores)
    rest = freedom - new.shape[1]
    if not new.shape[1] or rest < LEAST or np.allclose(left, 0, atol=1e-9 * np.abs(scores).max()):
        return Effect(name, n)
    explained = _share(new, left[:, None])[0]
    hits, drawn = np.empty(0, dtype=int), 0
    while len(hits) < ENOUGH and drawn < SHUFFLES:
        size = min(BATCH, SHUFFLES - drawn)
        shuffled = rng.permuted(np.tile(left, (size, 1)), axis=1).T
        # Equal up to rounding is as extreme.
        as_much = _share(new, _without(base, shuffled)) >= explained - 1e-12
        hits = np.append(hits, drawn + 1 + np.flatnonzero(as_much))
        drawn += size
    told = len(hits) >= ENOUGH
    p = ENOUGH / hits[ENOUGH - 1] if told else (len(hits) + 1) / (drawn + 1)
    adjusted = 1 - (1 - explained) * freedom / rest
    return Effect(name, n, max(0.0, float(adjusted)), float(p))


def _share(basis: Array, columns: Array) -> Array:
    """Of the sum of squares of each column, what an orthonormal basis explains."""
    return ((basis.T @ columns) ** 2).sum(axis=0) / (columns**2).sum(axis=0)


def choices(
    scores: Array,
    axes: Mapping[str, Sequence[str]],
    beside: Mapping[str, Sequence[float | str | None]] | None = None,
) -> dict[str, dict[str, float | None]]:
    """For each axis how far each choice is above the mean of those it can be compared with, all
    other axes and what else varies, `beside`, equal.

    Least squares over all of them at once, so that choices that met better company gain nothing by
    it. Two choices can be compared where the design tells their difference; of the sets that can,
    the one with the most scores is told, and None of all other choices.
    """
    columns = [*map(one_hot, axes.values()), *map(coded, (beside or {}).values())]
    design = np.column_stack([np.ones(len(scores)), *columns])
    fitted = np.linalg.pinv(design) @ scores
    rows = _basis(design.T)
    found: dict[str, dict[str, float | None]] = {}
    at = 1
    for name, values in axes.items():
        options, counts = np.unique(values, return_counts=True)
        own = range(at, at + len(options))
        # To be told apart is transitive, so that whoever has one has the whole set.
        sets = [[j for j in own if i == j or _told(rows, i, j)] for i in own]
        largest = max(sets, key=lambda some: (len(some) > 1, sum(counts[j - at] for j in some)))
        told = largest if len(largest) > 1 else []
        found[name] = {
            str(option): float(fitted[i] - fitted[told].mean()) if i in told else None
            for i, option in zip(own, options, strict=True)
        }
        at += len(options)
    return found


def _told(rows: Array, one: int, other: int) -> bool:
    """Whether the difference of two coefficients is in the span of a design's rows."""
    contrast = np.zeros(len(rows))
    contrast[one], contrast[other] = 1, -1
    return np.allclose(_without(rows, contrast), 0, atol=1e-8)


def one_hot(values: Sequence[str]) -> Array:
    """A column for each distinct value in order, [n, values]."""
    return (np.array(values)[:, None] == np.unique(values)).astype(float)


def coded(values: Sequence[float | str | None]) -> Array:
    """Columns of a field [n, k], each with a mean of zero over those that have it, and zero for
    those that have none: a column for each text, or the ranks of numbers and their squares."""
    from scipy.stats import rankdata

    has = np.array([value is not None for value in values])
    own = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in own):
        told = one_hot([str(value) for value in own])
    else:
        ranks = rankdata(own)
        ranks -= ranks.mean()
        told = np.column_stack([ranks, ranks**2])
    made = np.zeros((len(values), told.shape[1]))
    made[has] = told - told.mean(axis=0)
    return made


def goes_with(values: Sequence[float | str | None], kinds: Sequence[str]) -> float:
    """The share of a field's variance that the kinds of an axis explain, among those that have it,
    without what chance explains; 0 where as many kinds as variants are left to tell by."""
    has = np.array([value is not None for value in values])
    columns, groups = coded(values)[has], one_hot([*np.array(kinds)[has]])
    n, k = groups.shape
    within = columns - groups @ (groups.T @ columns / groups.sum(axis=0)[:, None])
    total = (columns**2).sum()
    if n <= k or not total:
        return 0.0
    return max(0.0, float(1 - (within**2).sum() / total * (n - 1) / (n - k)))


def _basis(columns: Array) -> Array:
    """An orthonormal basis of what the columns span, as columns."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    largest = max(1.0, sizes.max(initial=0.0))
    return left[:, sizes > 1e-9 * largest]


def _without(basis: Array, columns: Array) -> Array:
    return columns - basis @ (basis.T @ columns)


def _controlled(found: Sequence[Effect]) -> list[Effect]:
    from scipy.stats import false_discovery_control

    p = [effect.p for effect in found if effect.p is not None]
    q = iter(false_discovery_control(p)) if p else iter(())
    return [e if e.p is None else replace(e, q=float(next(q))) for e in found]

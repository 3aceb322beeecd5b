"""What made a difference: effects of axes, of pairs of them, and of settings within a kind.

One test serves all three: how much of what other columns leave of the scores some further columns
explain, against the same columns with random signs, one for each variant. It takes no two variants
to vary alike (the score test of Hemerik, Goeman and Finos 2020, with the variance that the signs
leave by De Santis, Goeman, Hemerik and Finos 2022), and as many signs as it takes to tell (Besag
and Clifford 1991).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Field: TypeAlias = "Sequence[float | str | None]"
"""A value of each variant, None where it has none."""

DRAWS = 9999
"""Of signs at most; the smallest p-value is one over one more."""
BATCH = 250
"""Draws at once."""
ENOUGH = 25
"""Draws that explain as much, after which no more are needed: the p-value is their share."""
LEAST = 5
"""Degrees of freedom that must be left to judge by."""
TOGETHER = 0.05
"""The p-value up to which a term is said to go with another one: had it done all that there is to
see, what goes with it less than that would not be told for it."""


FEW = 6
"""Numbers that are told apart as words are: what they do may have a peak or a step."""


@dataclass(frozen=True)
class Effect:
    """What an axis, a pair of axes or a setting explains; None where the design does not tell."""

    name: str
    variants: int
    """That it was looked for in."""
    goes_with: tuple[str, ...] = ()
    """Pairs and settings that it goes with, and is judged beside for that."""
    share: float | None = None
    """Of the variance that the others leave, without what chance explains; at least 0."""
    p: float | None = None
    q: float | None = None
    """The p-value after Benjamini and Hochberg (1995), over all that was tested."""


@dataclass(frozen=True)
class Term:
    """An axis, a pair of axes, a setting or another field, in columns."""

    name: str
    columns: Array
    """[n, k], zero where a variant has no value."""
    has: NDArray[np.bool_]
    """Which variants have a value, [n]."""
    axes: frozenset[str] = frozenset()
    """That it is made of."""

    @classmethod
    def of(cls, name: str, values: Field) -> Term:
        return cls(name, coded(values), np.array([value is not None for value in values]))


class Design:
    """Scores [n], one for each variant, and what the variants differ in, by n values each: axes,
    settings, which are None where a variant has none, and `sides`, that everything is judged
    beside. One that is a setting too is judged itself."""

    def __init__(
        self,
        scores: Array,
        axes: Mapping[str, Sequence[str]],
        settings: Mapping[str, Field] | None = None,
        sides: Mapping[str, Field] | None = None,
    ) -> None:
        self.scores = scores
        every = np.ones(len(scores), dtype=bool)
        self.values: Mapping[str, Field] = {**axes, **(settings or {})}
        self.axes = [
            Term(name, one_hot(values), every, frozenset({name}))
            for name, values in axes.items()
            if len({*values}) > 1
        ]
        self.pairs = [
            Term(
                f"{one.name} x {other.name}",
                (one.columns[:, :, None] * other.columns[:, None, :]).reshape(len(scores), -1),
                every,
                one.axes | other.axes,
            )
            for one, other in combinations(self.axes, 2)
        ]
        made = [Term.of(name, values) for name, values in (settings or {}).items()]
        self.settings = [term for term in made if term.columns.any()]
        self.sides = [Term.of(name, values) for name, values in (sides or {}).items()]

    def effects(self, seed: int = 0) -> list[Effect]:
        """Every axis, every pair of axes, and every setting among the variants that have it.

        Each is judged beside all other axes and the sides, so that it is not told where these go
        together, and beside those of the pairs and the settings that go with it.
        """
        rng = np.random.default_rng(seed)
        found = []
        for term in (*self.axes, *self.pairs, *self.settings):
            has, always, more = term.has, self._always(term), self._more(term)
            beside = [other.columns[has] for other in (*always, *more)]
            effect = explained(term.name, self.scores[has], beside, term.columns[has], rng)
            found.append(replace(effect, goes_with=tuple(other.name for other in more)))
        return _controlled(found)

    def choices(self, name: str) -> Means | None:
        """Of the kinds of an axis, or the values of a setting, all that it is judged beside equal;
        None of more than a few numbers."""
        (term,) = (term for term in (*self.axes, *self.settings) if term.name == name)
        beside = [o.columns[term.has] for o in (*self._always(term), *self._more(term))]
        own = [value for value in self.values[name] if value is not None]
        if many(own):
            return None
        words = [f"{value:g}" if isinstance(value, float) else str(value) for value in own]
        return means(self.scores[term.has], words, beside)

    def cells(self, one: str, other: str) -> Means:
        """Of each kind of one axis with each of another, "one other"."""
        (pair,) = (term for term in self.pairs if term.axes == {one, other})
        further = [term for term in self._always(pair) if term.name not in pair.axes]
        beside = [term.columns for term in (*further, *self._more(pair))]
        kinds = zip(self.values[one], self.values[other], strict=True)
        both = [f"{mine} {theirs}" for mine, theirs in kinds]
        return means(self.scores, both, beside)

    def _always(self, term: Term) -> list[Term]:
        """The other axes, and the sides."""
        return [other for other in (*self.axes, *self.sides) if other.name != term.name]

    def _more(self, term: Term) -> list[Term]:
        """Pairs and settings that go with a term."""
        always, has = self._always(term), term.has
        base = _basis(np.column_stack([np.ones(has.sum()), *(o.columns[has] for o in always)]))
        freedom = int(has.sum()) - base.shape[1]
        own = _basis(_without(base, term.columns[has]))
        taken = {term.name, *(other.name for other in always)}
        return [
            other
            for other in (*self.pairs, *self.settings)
            # A pair is what its axes do in some company more than in other.
            if other.name not in taken and (len(term.axes) != 1 or not term.axes & other.axes)
            if _apart(own, _basis(_without(base, other.columns[has])), freedom) <= TOGETHER
        ]


def _apart(one: Array, other: Array, freedom: int) -> float:
    """The p-value of two orthonormal bases that have nothing to do with each other, in a space of
    `freedom` dimensions: that of Pillai's trace by its F; 1 where it cannot be told."""
    from scipy.stats import f

    k, few = max(one.shape[1], other.shape[1]), min(one.shape[1], other.shape[1])
    if not few or freedom <= k:
        return 1.0
    trace = ((one.T @ other) ** 2).sum()
    ratio = (freedom - k) * trace / (k * max(few - trace, 1e-12))
    return float(f.sf(ratio, few * k, few * (freedom - k)))


def explained(
    name: str, scores: Array, beside: Sequence[Array], added: Array, rng: np.random.Generator
) -> Effect:
    """What the columns `added` [n, k] explain of scores [n] beside others and a mean."""
    n = len(scores)
    base = _basis(np.column_stack([np.ones(n), *beside]))
    new = _basis(_without(base, added))
    freedom, k = n - base.shape[1], new.shape[1]
    left = _without(base, scores)
    rest = freedom - k
    if not k or rest < LEAST or np.allclose(left, 0, atol=1e-9 * np.abs(scores).max()):
        return Effect(name, n)
    observed = ((new.T @ left) ** 2).sum()
    hits, drawn = np.empty(0, dtype=int), 0
    while len(hits) < ENOUGH and drawn < DRAWS:
        size = min(BATCH, DRAWS - drawn)
        signs = rng.choice([-1.0, 1.0], size=(size, n))
        # Equal up to rounding is as extreme.
        as_much = _explained(signs, new, base, left) >= observed - 1e-9 * (left**2).sum()
        hits = np.append(hits, drawn + 1 + np.flatnonzero(as_much))
        drawn += size
    told = len(hits) >= ENOUGH
    p = ENOUGH / hits[ENOUGH - 1] if told else (len(hits) + 1) / (drawn + 1)
    adjusted = 1 - (1 - observed / (left**2).sum()) * freedom / rest
    return Effect(name, n, (), max(0.0, float(adjusted)), float(p))


def _explained(signs: Array, new: Array, base: Array, left: Array) -> Array:
    """Of the sum of squares of `left` [n], what the columns of a basis [n, k] explain with each of
    the signs [draws, n], beside another basis [n, b]."""
    draws, k = len(signs), new.shape[1]
    within = (signs @ (base[:, :, None] * new[:, None, :]).reshape(len(base), -1)).reshape(
        draws, -1, k
    )
    products = np.eye(k) - within.transpose(0, 2, 1) @ within
    onto = signs @ (left[:, None] * new)
    weights = np.linalg.pinv(products, rcond=1e-9, hermitian=True) @ onto[:, :, None]
    return (onto[:, None, :] @ weights)[:, 0, 0]


@dataclass(frozen=True)
class Means:
    """Of some values, all else equal."""

    of: dict[str, float | None]
    """How far each value is above the mean of those it can be compared with; None of all others."""
    weights: dict[str, Array]
    """What each score weighs in each of them, [n]."""
    errors: Array
    """How far each score is from what is fitted to the others; infinite where that says nothing."""
    left: Array
    """[n, n], what turns scores into what the fit leaves of them."""

    def margin(self, one: str, other: str, comparisons: int) -> float | None:
        """Half the width of the interval of a difference of two values, at 95 % for so many of them
        together; None where it is not known."""
        return self._margin(self.weights[one] - self.weights[other], comparisons)

    def own_margin(self, value: str) -> float | None:
        """The same of how far a value is above the mean, for all values together."""
        told = [name for name, known in self.of.items() if known is not None]
        if value not in told:
            return None
        mean = np.mean([self.weights[name] for name in told], axis=0)
        # Of two values one is as far above the mean as the other is below it.
        return self._margin(self.weights[value] - mean, len(told) if len(told) > 2 else 1)

    def _margin(self, weights: Array, comparisons: int) -> float | None:
        """Of a weighed sum of the scores.

        No two scores need vary alike: the variance is that of White (1980) in the form HC3 of
        MacKinnon and White (1985), with the degrees of freedom by which it is itself known (Bell
        and McCaffrey 2002): few, where few scores matter.
        """
        from scipy.stats import t

        matter = np.abs(weights) > 1e-9
        if not matter.any() or np.isinf(self.errors[matter]).any():
            return None
        left = self.left[np.ix_(matter, matter)]
        each = (weights[matter] / np.diag(left)) ** 2
        freedom = (each @ np.diag(left)) ** 2 / (each @ left**2 @ each)
        variance = ((weights[matter] * self.errors[matter]) ** 2).sum()
        return float(t.ppf(1 - 0.025 / comparisons, freedom) * np.sqrt(variance))


def means(scores: Array, values: Sequence[str], beside: Sequence[Array]) -> Means:
    """Of values beside columns.

    Least squares over all of them at once, so that choices that met better company gain nothing by
    it. Two choices can be compared where the design tells their difference; of the sets that can,
    the one with the most scores is told.
    """
    design = np.column_stack([one_hot(values), np.ones(len(scores)), *beside])
    left, sizes, right = _svd(design)
    weights = (right.T / sizes) @ left.T
    fitted, rows = weights @ scores, right.T
    rest = np.eye(len(scores)) - left @ left.T
    errors, free = np.full(len(scores), np.inf), np.diag(rest) > 1e-9
    errors[free] = (rest @ scores)[free] / np.diag(rest)[free]
    options, counts = np.unique(values, return_counts=True)
    own = range(len(options))
    # To be told apart is transitive, so that whoever has one has the whole set.
    sets = [[j for j in own if i == j or _told(rows, i, j)] for i in own]
    largest = max(sets, key=lambda some: (len(some) > 1, sum(counts[j] for j in some)))
    told = largest if len(largest) > 1 else []
    return Means(
        {
            str(option): float(fitted[i] - fitted[told].mean()) if i in told else None
            for i, option in enumerate(options)
        },
        {str(option): weights[i] for i, option in enumerate(options)},
        errors,
        rest,
    )


def _told(rows: Array, one: int, other: int) -> bool:
    """Whether the difference of two coefficients is in the span of a design's rows."""
    contrast = np.zeros(len(rows))
    contrast[one], contrast[other] = 1, -1
    return np.allclose(_without(rows, contrast), 0, atol=1e-8)


def one_hot(values: Sequence[str]) -> Array:
    """A column for each distinct value in order, [n, values]."""
    return (np.array(values)[:, None] == np.unique(values)).astype(float)


def many(own: Sequence[float | str]) -> bool:
    """Whether values are more numbers than a `FEW`."""
    return len({*own}) > FEW and not any(isinstance(value, str) for value in own)


def coded(values: Sequence[float | str | None]) -> Array:
    """Columns of a field [n, k], each with a mean of zero over those that have it, and zero for
    those that have none: a column for each value or, of more than a `FEW` numbers, their ranks and
    the squares of these."""
    from scipy.stats import rankdata

    has = np.array([value is not None for value in values])
    own = [value for value in values if value is not None]
    if many(own):
        ranks = rankdata(own)
        ranks -= ranks.mean()
        told = np.column_stack([ranks, ranks**2])
    else:
        told = one_hot([str(value) for value in own])
    made = np.zeros((len(values), told.shape[1]))
    made[has] = told - told.mean(axis=0)
    return made


def _basis(columns: Array) -> Array:
    """An orthonormal basis of what the columns span, as columns."""
    return _svd(columns)[0]


def _svd(columns: Array) -> tuple[Array, Array, Array]:
    """The singular vectors and values of what the columns span."""
    from scipy.linalg import svd

    # That of numpy, by divide and conquer, does not always end.
    left, sizes, right = svd(columns, full_matrices=False, lapack_driver="gesvd")
    kept = sizes > 1e-9 * max(1.0, sizes.max(initial=0.0))
    return left[:, kept], sizes[kept], right[kept]


def _without(basis: Array, columns: Array) -> Array:
    return columns - basis @ (basis.T @ columns)


def _controlled(found: Sequence[Effect]) -> list[Effect]:
    from scipy.stats import false_discovery_control

    p = [effect.p for effect in found if effect.p is not None]
    q = iter(false_discovery_control(p)) if p else iter(())
    return [e if e.p is None else replace(e, q=float(next(q))) for e in found]

"""Variants on the same seeds: how sure a mean is, which differ, and what the best one is worth.

`scores` are [V, S]: a row for each variant, the best mean first, a column for each seed that all
of them ran on; higher is better. How often each method errs is in docs/statistics.md.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEVEL = 0.95
"""Of every interval, and of all comparisons with the first together."""


class Chance(NamedTuple):
    """A probability with its interval."""

    value: float
    low: float
    high: float


def margins(scores: Array) -> Array:
    """Half the width of the interval of each mean, [V].

    The larger of two t intervals: of the variant's own spread, and of the spread pooled over all
    variants, which holds for all means together (Sidak 1967) and so for that of the first, which
    owes something to being the best. The first alone is of no width where three runs happen to be
    alike; the second alone is too narrow for a variant that varies more than the others. Infinite
    where all runs are alike, which tells nothing of how they vary.
    """
    variants, seeds = scores.shape
    own = scores.var(axis=1, ddof=1)
    found = np.maximum(
        _t(seeds - 1) * np.sqrt(own / seeds),
        _t(variants * (seeds - 1), variants) * np.sqrt(own.mean() / seeds),
    )
    return np.where(_rounding(found, scores), np.inf, found)


def gaps(scores: Array, row: int = 0, among: int = 1) -> tuple[Array, Array]:
    """How far each mean is behind that of a row, the first unless another is named, and how far it
    must be to be told from it; both [V]. Where it is one `among` several such questions, by other
    metrics of the same runs, the answers to all of them hold together (Sidak 1967).

    A gap counts if it is above both margins: of Tukey's range test, which allows for all pairs of
    variants and so for the first being the best of them (its error is what variants and seeds leave
    of the scores), and of the paired t test of the two alone, for a pair that varies more than the
    others. Where both are zero, because runs are alike, no gap counts.
    """
    variants, seeds = scores.shape
    if variants == 1:
        return np.zeros(1), np.zeros(1)
    behind = scores[row] - scores
    left = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    freedom = (variants - 1) * (seeds - 1)
    pooled = _range(variants, freedom, among) * np.sqrt((left**2).sum() / freedom / seeds)
    own = _t(seeds - 1, among) * np.sqrt(behind.var(axis=1, ddof=1) / seeds)
    needed = np.maximum(pooled, own)
    return behind.mean(axis=1), np.where(_rounding(needed, scores), np.inf, needed)


def _rounding(margins: Array, scores: Array) -> NDArray[np.bool_]:
    """Whether margins are what sums of equal scores differ by."""
    return margins <= 1e-9 * np.abs(scores).max()


def superiority(scores: Array) -> list[Chance]:
    """The probabilities that a run of the first beats one of each, on seeds of their own.

    The share of all pairs of runs, a tie counting half (Agarwal et al. 2108.13264, probability of
    improvement), with Wilson's interval of as many draws as there are seeds: the variance of the
    share is at most that of so many draws (Birnbaum and Klose 1957). The intervals hold for every
    pair of variants together (Bonferroni), and so for the first being the best of them.
    """
    from scipy.stats import norm

    variants, draws = scores.shape
    errors = (1 - LEVEL) / max(1, math.comb(variants, 2))
    z2 = norm.isf(errors / 2) ** 2
    share = ((np.sign(scores[0][:, None] - scores[:, None, :]) + 1) / 2).mean(axis=(1, 2))
    centre = (share + z2 / (2 * draws)) / (1 + z2 / draws)
    half = np.sqrt(z2 * (share * (1 - share) / draws + z2 / (4 * draws**2))) / (1 + z2 / draws)
    low, high = np.maximum(0, centre - half), np.minimum(1, centre + half)
    return [Chance(*map(float, found)) for found in zip(share, low, high, strict=True)]


def cross_validated(scores: Array) -> float:
    """What the first is worth: chosen on all seeds but one, scored on that one, in the mean.

    The mean of the best of several flatters, since luck helped to make it the best. A seed that had
    no part in the choice does not. Never above the highest mean.
    """
    total = scores.sum(axis=1, keepdims=True) - scores
    # Sums of the same scores in another order differ by rounding.
    chosen = np.isclose(total, total.max(axis=0), rtol=1e-12, atol=0)
    return float(((scores * chosen).sum(axis=0) / chosen.sum(axis=0)).mean())


def unseen(seeds: int) -> float:
    """The largest probability of a failed run that so many good runs leave possible."""
    return 1 - (1 - LEVEL) ** (1 / seeds)


@lru_cache
def _t(freedom: int, alike: int = 1) -> float:
    """The quantile of so many means together in units of one's error."""
    from scipy.stats import t

    return float(t.isf((1 - LEVEL ** (1 / alike)) / 2, freedom))


@lru_cache
def _range(variants: int, freedom: int, alike: int = 1) -> float:
    """The quantile of the range of so many means, or of so many ranges together, in units of one's
    error."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(LEVEL ** (1 / alike), variants, freedom))

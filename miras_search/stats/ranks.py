"""Ranks of scores, and whether two lists put the same variants in the same order."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miras_search.stats.seeds import LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST = 10
"""Pairs of scores that a correlation is worth telling of."""


class Correlation(NamedTuple):
    """A rank correlation with its interval."""

    value: float
    low: float
    high: float


def normal_scores(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """[values], normal quantiles of their ranks; equal values have their ranks' mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts / 2
    return np.array([NormalDist().inv_cdf(x) for x in below / len(values)])[places]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where all scores of a list are equal and there is no order."""
    left, right = _centred_ranks(a), _centred_ranks(b)
    size = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / size) if size else 0.0


def correlation(a: Sequence[float], b: Sequence[float]) -> Correlation | None:
    """The rank correlation of n paired scores; None for fewer than `LEAST`, or if either
    list is constant.

    The interval is Bonett and Wright's (2000): Fisher's z with variance (1 + r^2 / 2) / (n - 3).
    """
    if len(a) < LEAST or min(np.ptp(a), np.ptp(b)) == 0:
        return None
    n, found = len(a), spearman(a, b)
    # Two lists in one order are half a step of the statistic from any others, not certain to agree.
    most = 1 - 6 / (n**3 - n)
    inside = float(np.clip(found, -most, most))
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt((1 + inside**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(inside) + np.array([-half, half]))
    return Correlation(found, min(found, float(low)), max(found, float(high)))


def _centred_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks less their mean; equal values share one."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks - ranks.mean()

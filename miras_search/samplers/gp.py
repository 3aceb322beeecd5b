"""Bayesian optimisation: a Gaussian process over the axes, and expected improvement."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from miras_search.component import Component
from miras_search.samplers.base import Move, Sampler, Tried
from miras_search.stats.ranks import normal_scores
from miras_search.variant import Variant

if TYPE_CHECKING:
    from miras_search.search.candidate import Candidate
    from miras_search.search.domain import Domain

STARTS = 5
"""Random points before there is a model."""
MOST = 500
"""Results that the model knows, the best and the latest: its time grows with their cube."""
DRAWS = 32
"""Kernels drawn from their prior; the likeliest is used."""
SPREAD = 1.0
"""Standard deviation of the logarithm of a weight under the prior, whose median is 1 / axes."""
NOISE = (0.05, 0.8)
"""Share of the variance that is the luck of a seed: uniform under the prior."""

NORMAL = NormalDist()


class Gp(Sampler):
    """The point with the largest expected improvement (Jones et al., 1998) under a posterior.

    The kernel falls with the weighted number of axes in which two points differ (Hamming). A
    setting counts once and the kind it belongs to once more, learning rates by the distance of
    their logarithms. Scores are replaced by the normal quantiles of their ranks: neither their
    scale nor how badly a trial failed matters. A trial that runs is taken to end as expected
    (Ginsbourger et al., 2010).
    """

    def __init__(self, domain: Domain[Any], seed: int, leaders: Sequence[Any] = ()) -> None:
        super().__init__(domain, seed, leaders)
        self._codes: dict[Any, int] = {}
        self._encoded: dict[Any, list[float]] = {}

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        points = {trial.point for trial in tried}
        known = [(trial.point, trial.score) for trial in tried if trial.score is not None]
        running = [trial.point for trial in tried if trial.score is None]
        if len(tried) < STARTS or len({score for _, score in known}) < 2:
            point = self.domain.random(points, rng)
            return None if point is None else Move(point)
        top, _ = max(known, key=lambda one: one[1])
        if len(known) > MOST:
            best = sorted(known[: -MOST // 2], key=lambda one: -one[1])[: MOST // 2]
            known = [*best, *known[-MOST // 2 :]]
        options = self.domain.options(top, points, rng)
        if not options:
            return None
        places = self._places([*(point for point, _ in known), *running, *options])
        ends = len(known), len(known) + len(running)
        seen, believed, left = np.split(places, ends)
        posterior = _likeliest(seen, normal_scores(np.array([score for _, score in known])), rng)
        if running:
            posterior = posterior.given(believed, posterior.mean(believed))
        return Move(options[int(posterior.improvement(left).argmax())])

    def _places(self, points: Sequence[Any]) -> np.ndarray:
        """Whole numbers, [points, axes that differ], and the logarithm of the rate in [0, 1]."""
        for point in points:
            if point not in self._encoded:
                self._encoded[point] = self._encode(self.domain.candidate(point))
        places = np.array([self._encoded[point] for point in points])
        rate = places[:, -1]
        places[:, -1] = (rate - rate.min()) / (np.ptp(rate) or 1)
        return places[:, (places != places[0]).any(0)]

    def _encode(self, candidate: Candidate) -> list[float]:
        values = [getattr(candidate.variant, name) for name in Variant.model_fields]
        kinds = [value.kind for value in values if isinstance(value, Component)]
        codes = (self._codes.setdefault(value, len(self._codes)) for value in (*values, *kinds))
        return [*codes, math.log(candidate.lr)]


@dataclass(frozen=True)
class _Posterior:
    """Of a Gaussian process with mean 0, variance 1 (before `scale`) and noise, given values."""

    weights: np.ndarray
    """[axes], of a difference."""
    noise: float
    """Share of the variance."""
    places: np.ndarray
    """[seen, axes]"""
    values: np.ndarray
    """[seen]"""

    def given(self, places: np.ndarray, values: np.ndarray) -> _Posterior:
        """What it is with these values too."""
        places = np.concatenate([self.places, places])
        values = np.concatenate([self.values, values])
        return _Posterior(self.weights, self.noise, places, values)

    def covariance(self, places: np.ndarray) -> np.ndarray:
        """[places, seen], without noise."""
        apart = np.minimum(abs(places[:, None] - self.places), 1)
        return (1 - self.noise) * np.exp(-apart @ self.weights)

    @cached_property
    def factor(self) -> np.ndarray:
        """[seen, seen], the inverse of the Cholesky factor of the covariance with noise."""
        own = self.covariance(self.places) + self.noise * np.eye(len(self.values))
        return np.linalg.inv(np.linalg.cholesky(own))

    @cached_property
    def white(self) -> np.ndarray:
        """[seen], the values, of unit variance and uncorrelated under the process."""
        return self.factor @ self.values

    @property
    def scale(self) -> float:
        """The likeliest variance."""
        return float((self.white**2).mean())

    def mean(self, places: np.ndarray) -> np.ndarray:
        """Expected values, [places]."""
        return self.covariance(places) @ (self.factor.T @ self.white)

    def improvement(self, places: np.ndarray) -> np.ndarray:
        """[places], expected, on the highest mean of what was seen."""
        explained = ((self.covariance(places) @ self.factor.T) ** 2).sum(1)
        deviation = np.sqrt(self.scale * np.maximum(1 - self.noise - explained, 1e-12))
        gap = (self.mean(places) - self.mean(self.places).max()) / deviation
        below = np.array([NORMAL.cdf(x) for x in gap])
        return deviation * (gap * below + np.exp(-(gap**2) / 2) / math.sqrt(2 * math.pi))


def _likeliest(places: np.ndarray, values: np.ndarray, rng: random.Random) -> _Posterior:
    """The likeliest of some kernels drawn from their prior."""
    count, axes = places.shape
    drawn = [
        ([math.exp(rng.gauss(0, SPREAD)) / axes for _ in range(axes)], rng.uniform(*NOISE))
        for _ in range(DRAWS)
    ]
    weights, noise = (np.array(each) for each in zip(*drawn, strict=True))
    apart = np.minimum(abs(places[:, None] - places), 1).reshape(-1, axes)
    alike = np.exp(-weights @ apart.T).reshape(-1, count, count)
    luck = noise[:, None, None]
    best = int(_likelihoods((1 - luck) * alike + luck * np.eye(count), values).argmax())
    return _Posterior(weights[best], float(noise[best]), places, values)


def _likelihoods(covariances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Logarithms of the density of values [seen] under covariances [draws, seen, seen] with noise,
    each at its likeliest variance, up to a constant."""
    count = len(values)
    # The Cholesky factor of [[K, y], [y', c]] has y as white values in its last row. No eigenvalue
    # of K is below the noise, so that this c is large enough.
    whole = np.empty((len(covariances), count + 1, count + 1))
    whole[:, :count, :count] = covariances
    whole[:, count, :count] = whole[:, :count, count] = values
    whole[:, count, count] = 1 + values @ values / NOISE[0]
    factor = np.linalg.cholesky(whole)
    scale = (factor[:, count, :count] ** 2).mean(1)
    diagonal = np.diagonal(factor, axis1=1, axis2=2)[:, :count]
    return -count / 2 * np.log(scale) - np.log(diagonal).sum(1)

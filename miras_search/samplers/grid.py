"""Every point of a finite space, once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property

from miras_search.samplers.base import Move, Sampler, Tried
from miras_search.search.pool import Pool


class Grid(Sampler):
    """The first point of a fixed order that was not tried.

    Variants come in an order shuffled by the seed, the learning rates of a variant one after
    another: a budget that ends early has tuned some variants and not touched the others.
    """

    learns = False

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        points = {trial.point for trial in tried}
        return next((Move(point) for point in self._order if point not in points), None)

    @cached_property
    def _order(self) -> list[int]:
        assert isinstance(self.domain, Pool), "a study refuses a grid without an end"
        rates: dict[str, list[int]] = {}
        for point, candidate in enumerate(self.domain.candidates):
            rates.setdefault(candidate.digest, []).append(point)
        digests = sorted(rates)
        random.Random(self.seed).shuffle(digests)
        return [point for digest in digests for point in rates[digest]]

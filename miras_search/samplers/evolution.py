"""Regularised evolution (Real et al., arXiv 1802.01548): the oldest dies, not the worst."""

from __future__ import annotations

import random
from collections.abc import Sequence

from miras_search.samplers.base import Move, Sampler, Tried

POPULATION = 16
"""Trials that are alive: the last ones that finished. The first are random."""
TOURNAMENT = 5
"""Of them, drawn at random; the best is the parent."""


class Evolution(Sampler):
    """A child differs from its parent in one axis, or in as few as were not tried."""

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        points = {trial.point for trial in tried}
        finished = [trial for trial in tried if trial.score is not None]
        if len(tried) < POPULATION or not any(trial.completed for trial in finished):
            point = self.domain.random(points, rng)
        else:
            alive = finished[-POPULATION:]
            rivals = rng.sample(alive, min(TOURNAMENT, len(alive)))
            parent = max(rivals, key=lambda trial: trial.score or 0.0)
            point = self.domain.near(parent.point, points, rng)
        return None if point is None else Move(point)

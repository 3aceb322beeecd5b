"""Local search (White et al., arXiv 2005.02960): climb while a neighbour is better, restart."""

from __future__ import annotations

import random
from collections.abc import Sequence

from miras_search.samplers.base import Move, Sampler, Tried

STARTS = 10
"""Random points at the beginning of a climb; the best of them is where it begins."""


class Local(Sampler):
    """A random neighbour of the best trial of the climb, and from the first better one onwards.

    Where every neighbour was tried, another climb begins. The note of a trial is the number of
    its climb.
    """

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        points = {trial.point for trial in tried}
        climb = tried[-1].note if tried else 0
        own = [trial for trial in tried if trial.note == climb]
        known = [trial for trial in own if trial.completed]
        if len(own) >= STARTS and known:
            top = max(known, key=lambda trial: trial.score or 0.0)
            point = self.domain.neighbour(top.point, points, rng)
            if point is not None:
                return Move(point, climb)
            climb += 1
        point = self.domain.random(points, rng)
        return None if point is None else Move(point, climb)

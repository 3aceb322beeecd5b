"""Random search: what every other sampler has to beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

from miras_search.samplers.base import Move, Sampler, Tried


class Random(Sampler):
    """Any point that was not tried: each distinct variant is as likely as any other.

    Drawing every choice of the space uniformly would favour what has few settings, and functions
    that have several names.
    """

    learns = False

    def propose(self, tried: Sequence[Tried], rng: random.Random) -> Move | None:
        point = self.domain.random({trial.point for trial in tried}, rng)
        return None if point is None else Move(point)

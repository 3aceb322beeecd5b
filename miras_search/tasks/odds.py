"""Odds that levels are made of: what can be guessed by who knows the parts and not their use."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache


@cache
def most_frequent(draws: int, values: int) -> float:
    """The expected share of the most frequent value among draws of equally likely values.

    P(no value more than m times) is the chance that independent Poisson counts that are all at
    most m add up to the number of draws, over the chance that any do.
    """
    import numpy as np

    rate = draws / values

    def poisson_of(mean: float, count: int) -> float:  # by logarithms, as exp(-746) is 0
        return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))

    poisson = np.array([poisson_of(rate, count) for count in range(draws + 1)])
    total = poisson_of(draws, draws)

    def within(most: int) -> float:
        sums, power, left = np.ones(1), poisson[: most + 1], values
        while left:  # the power of a polynomial, of which terms beyond x^draws are not needed
            if left % 2:
                sums = np.convolve(sums, power)[: draws + 1]
            power = np.convolve(power, power)[: draws + 1]
            left //= 2
        return float(sums[draws] / total) if len(sums) > draws else 0.0

    expected, most = 0.0, 0
    while most < draws and (beyond := 1 - within(most)) > 1e-9:
        expected, most = expected + beyond, most + 1
    return expected / draws


@cache
def value_of_any_key(pairs: int, keys: int, values: int, noise: float = 0.0) -> float:
    """How often the value of a key seen before is the one that most of the keys seen have.

    The sequences are those of `data.pairs.single`. Where n different keys were seen, each may be
    asked for with the same odds, and their values are n draws.
    """
    # The chance that n different keys were seen, apart by whether the pair that is never noise has
    # come; it is each of the pairs but the last with the same odds.
    seen = {(0, False): 1.0}
    asked: dict[int, float] = defaultdict(float)
    for left in range(pairs - 1, 0, -1):
        after: dict[tuple[int, bool], float] = defaultdict(float)
        for (n, sure), chance in seen.items():
            now = 0.0 if sure else 1 / left
            for comes, share in ((True, now), (sure, (1 - now) * (1 - noise))):
                asked[n] += chance * share * n / keys
                after[n, comes] += chance * share * n / keys
                after[n + 1, comes] += chance * share * (1 - n / keys)
            after[n, sure] += chance * (1 - now) * noise
        seen = {state: chance for state, chance in after.items() if chance}
    for (n, _), chance in seen.items():
        asked[n] += chance
    hit = sum(chance * most_frequent(n, values) for n, chance in asked.items() if chance)
    return hit / sum(asked.values())

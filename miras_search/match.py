"""A fair comparison: the size at which a variant has what the recipe's `match` gives to all.

A SwiGLU adds the same for each of its channels, so that they are counted, not searched; a width is
searched along the power law that costs nearly follow. Whatever is solved, costs are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from miras_search.size import MOST_MLP, WIDTHS, Match, Size
from miras_search.space import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable

    from miras_search.recipe import Recipe
    from miras_search.variant import Variant

PATIENCE = 8
"""Widths tried along the power law, before the rest is halved."""


@dataclass(frozen=True)
class Fit:
    """A size next to the target."""

    size: Size
    value: int
    """What the variant has of the quantity at this size."""
    deviation: float
    """From the target, as a share of it."""

    def __str__(self) -> str:
        return f"{self.value:,} at width {self.size.width}, mlp {self.size.mlp:g}"


def solve(variant: Variant, recipe: Recipe) -> Size | Rejection:
    """The size at which a variant has what `match` says, or why there is none."""
    match, found = _match(recipe), fits(variant, recipe)
    if abs(found[0].deviation) <= match.tolerance:
        return found[0].size
    # Of those nearest on either side, which may be one.
    beside = {fit.deviation > 0: fit for fit in reversed(found)}
    told = " and ".join(str(beside[over]) for over in sorted(beside))
    alone = "the least is" if True in beside else "the most is"
    words = "nearest are" if len(beside) > 1 else alone
    return Rejection(f"match: {variant} cannot have {match}: {words} {told}")


@lru_cache(maxsize=4096)
def fits(variant: Variant, recipe: Recipe) -> tuple[Fit, ...]:
    """The sizes next to the target of `match`, nearest first.

    The width stays and the hidden width of the SwiGLU is solved, unless the recipe has no SwiGLU or
    a state is to be matched, which is no matter of the SwiGLU: then the width is solved, in
    multiples of the heads. Where no width is near enough to parameters or FLOPs, the largest below
    the target is given a SwiGLU that makes up for the rest.
    """
    match, size = _match(recipe), recipe.size
    measure = partial(_measure, variant, recipe)
    if recipe.keeps_width:
        return _nearest_first(_by_channels(size, match, measure))
    found = _nearest_first(_by_width(size, variant.heads, match, measure))
    far = abs(found[0].deviation) > match.tolerance
    below = [fit.size for fit in found if fit.deviation <= 0]
    if far and below and match.quantity != "state":
        return _nearest_first((*found, *_by_channels(below[0], match, measure)))
    return found


def _by_channels(size: Size, match: Match, measure: Callable[[Size], int]) -> tuple[Fit, ...]:
    """The SwiGLUs that are just not too wide and just too wide, at the width of `size`."""
    from miras_search import cost

    one = cost.of_channel(size.width)
    channel = size.layers * (one.parameters if match.quantity == "params" else one.flops)
    least = measure(size.with_channels(1))
    low = math.floor((match.target - least) / channel) + 1
    most = MOST_MLP * size.width
    every = dict.fromkeys(min(max(n, 1), most) for n in (low, low + 1))
    return tuple(_fit(size.with_channels(n), least + (n - 1) * channel, match) for n in every)


def _by_width(
    size: Size, heads: int, match: Match, measure: Callable[[Size], int]
) -> tuple[Fit, ...]:
    """The widths that are just not too large and just too large, in multiples of the heads."""
    narrowest, widest = WIDTHS
    every = around(
        lambda n: measure(size.with_width(n * heads)),
        match.target,
        start=size.width // heads,
        least=math.ceil(narrowest / heads),
        most=widest // heads,
    )
    return tuple(_fit(size.with_width(n * heads), value, match) for n, value in every.items())


def around(
    value: Callable[[int], int], target: int, *, start: int, least: int, most: int
) -> dict[int, int]:
    """Two neighbours n with value(n) <= target < value(n + 1), and their values; or an end of
    least .. most, where all are above or none is.

    The value is positive and grows, about as a power of n.
    """
    known: dict[int, int] = {}
    low, high, guess = least - 1, most + 1, start
    while high - low > 1:
        n = min(max(guess, low + 1), high - 1)
        known[n] = value(n)
        low, high = (n, high) if known[n] <= target else (low, n)
        guess = _along_power(known, target) if len(known) < PATIENCE else (low + high) // 2
    return {n: known[n] for n in (low, high) if n in known}


def _along_power(known: dict[int, int], target: int) -> int:
    """Where the power law through the two values nearest to the target meets it."""

    def far(n: int) -> float:
        return abs(math.log(known[n] / target))

    n, *others = sorted(known, key=far)
    power = 1.5
    if others:
        slope = math.log(known[n] / known[others[0]]) / math.log(n / others[0])
        power = min(max(slope, 0.5), 8.0)
    return round(n * (target / known[n]) ** (1 / power))


def _measure(variant: Variant, recipe: Recipe, size: Size) -> int:
    """What the variant has of the quantity at a size."""
    from miras_search import cost
    from miras_search.plan import plan

    task = recipe.task
    match _match(recipe).quantity:
        case "params":
            return cost.parameters(variant, size, task.vocabulary, task.readout)
        case "state":
            return cost.state_bytes(variant, size, task.vocabulary, task.length, task.readout)
        case "flops":
            found = plan(variant, size, task.vocabulary, task.length, task.readout)
            return found.flops_per_token


def _fit(size: Size, value: int, match: Match) -> Fit:
    return Fit(size, value, match.deviation(value))


def _nearest_first(found: tuple[Fit, ...]) -> tuple[Fit, ...]:
    return tuple(sorted(found, key=lambda fit: abs(fit.deviation)))


def _match(recipe: Recipe) -> Match:
    assert recipe.match is not None
    return recipe.match

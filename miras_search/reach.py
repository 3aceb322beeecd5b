"""Which variants of a space can have what the recipe's `match` says; all, where it says nothing."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from miras_search.errors import InvalidValues
from miras_search.match import fits
from miras_search.space import Rejection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miras_search.recipe import Recipe
    from miras_search.space import Space
    from miras_search.variant import Variant

MOST = 1000
"""Variants whose sizes are solved one by one: that may take a minute or two."""
DRAWN = 80
"""Random variants that stand for a space of more."""


def uncountable(space: Space, recipe: Recipe) -> str | None:
    """Why the variants cannot be counted, or None if they can."""
    if recipe.match is None or space.infinite is not None or space.size <= MOST:
        return space.infinite
    return f"match: the sizes of {space.size:,} variants are more than {MOST:,} to solve"


def count(space: Space, recipe: Recipe) -> int:
    """The exact number of distinct variants, where they can be counted."""
    return space.size if recipe.match is None else len(_every(space, recipe))


def left_out(space: Space, recipe: Recipe) -> str | None:
    """How many variants cannot have what `match` says; None if all can, or it takes too long."""
    if recipe.match is None or uncountable(space, recipe) is not None:
        return None
    short = space.size - count(space, recipe)
    return f"{short} of {space.size} variants cannot have {recipe.match}" if short else None


def sample(space: Space, recipe: Recipe, most: int) -> list[tuple[Variant, Recipe]]:
    """Some distinct variants, drawn at random if there are more, each with its own recipe."""
    if uncountable(space, recipe) is not None:
        return list(islice(_sized(space, recipe), most))
    every = _every(space, recipe)
    return [*every] if len(every) <= most else random.Random(recipe.seed).sample(every, most)


def rejections(space: Space, recipe: Recipe) -> dict[str, int]:
    """How many points each reason rejects, most first: combinations without a meaning, then
    variants out of reach.

    Where variants cannot be counted, `DRAWN` random ones are looked at.
    """
    if recipe.match is None:
        return space.rejections()
    found = [recipe.sized(variant) for variant in _looked_at(space, recipe)]
    return space.rejections() | {x.reason: 1 for x in found if isinstance(x, Rejection)}


def require(space: Space, recipe: Recipe) -> None:
    """Find one variant that can have what `match` says.

    Raises:
        InvalidValues: none can, with the nearest that any comes to.
    """
    match, seen = recipe.match, []
    if match is None:
        return
    for variant in _looked_at(space, recipe):
        found = fits(variant, recipe)
        if abs(found[0].deviation) <= match.tolerance:
            return
        seen += [(fit, variant) for fit in found]
    nearest, variant = min(seen, key=lambda pair: abs(pair[0].deviation))
    told = f"no variant can have {match}: nearest is {nearest}, of {variant}"
    if all(fit.deviation > 0 for fit, _ in seen):
        free = "width or layers" if recipe.keeps_width else "layers"
        told = (
            f"{match} are fewer than width {nearest.size.width} and layers {recipe.size.layers} "
            f"have in any variant: the fewest are {nearest}, of {variant}; expected more, or a "
            f"smaller size with less {free}"
        )
    raise InvalidValues([(("match", match.quantity), told)])


@lru_cache(maxsize=1)
def _every(space: Space, recipe: Recipe) -> tuple[tuple[Variant, Recipe], ...]:
    return tuple(_sized(space, recipe))


def _sized(space: Space, recipe: Recipe) -> Iterator[tuple[Variant, Recipe]]:
    """The variants looked at that can have what `match` says, each with its own recipe."""
    for variant in _looked_at(space, recipe):
        own = recipe.sized(variant)
        if not isinstance(own, Rejection):
            yield variant, own


def _looked_at(space: Space, recipe: Recipe) -> Iterator[Variant]:
    """Every distinct variant in its simplest form, or random ones of those that are too many."""
    if uncountable(space, recipe) is None:
        yield from (variant.canonical for variant in space.enumerate())
        return
    rng = random.Random(recipe.seed)
    drawn = (space.sample(rng).canonical for _ in range(DRAWN))
    yield from {variant.digest: variant for variant in drawn}.values()

"""All that a study may try: what a sampler asks for instead of drawing and being refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from miras_search import reach

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from miras_search.nodes import Chooser
    from miras_search.recipe import Recipe
    from miras_search.search.candidate import Candidate, Question
    from miras_search.space import Space
    from miras_search.variant import Variant

P = TypeVar("P")
"""A point: hashable, and equal only to a point that would train the same model."""


class Domain(Protocol[P]):
    """Feasible points. What is given out is never in `tried`; None says that nothing is left."""

    questions: dict[str, Question]
    """Every question of the points given out so far, by name."""

    def candidate(self, point: P) -> Candidate:
        """What there is to train."""
        ...

    def find(self, answers: Mapping[str, Any]) -> P | None:
        """The point that these answers lead to."""
        ...

    def locate(self, variant: Variant, lr: float) -> P | None:
        """The point of a variant at the nearest learning rate there is; None where the variant is
        none of the space."""
        ...

    def random(self, tried: Collection[P], rng: random.Random) -> P | None:
        """Uniform over distinct variants where they can be counted."""
        ...

    def near(self, origin: P, tried: Collection[P], rng: random.Random) -> P | None:
        """A random one of the nearest: those that differ from `origin` in the fewest axes."""
        ...

    def neighbour(self, origin: P, tried: Collection[P], rng: random.Random) -> P | None:
        """A random one of those that differ in a single axis; None if `origin` has no more."""
        ...

    def options(self, origin: P, tried: Collection[P], rng: random.Random) -> list[P]:
        """What a model weighs: all that can be tried or, of too many, points near `origin` and
        random ones."""
        ...

    def snap(self, chooser: Chooser, tried: Collection[P], rng: random.Random) -> P | None:
        """What a chooser's answers lead to or, if that cannot be tried, the nearest that can."""
        ...


def domain(space: Space, recipe: Recipe) -> Domain[Any]:
    """A pool where every point can be counted, draws where there is no end to them."""
    from miras_search.search.endless import Endless
    from miras_search.search.pool import Pool

    if reach.uncountable(space, recipe) is None and recipe.lr.count() is not None:
        return Pool.of(space, recipe)
    return Endless(space, recipe)

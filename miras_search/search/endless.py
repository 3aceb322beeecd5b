"""A domain without an end: points are drawn, and drawn again until one can be tried."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from miras_search import reach
from miras_search.nodes import Fixed
from miras_search.search.aim import rate_answers, space_answers
from miras_search.search.candidate import Remembered, draw
from miras_search.search.pool import Pool
from miras_search.space import TRIES, RandomChooser

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from miras_search.nodes import Chooser
    from miras_search.recipe import Recipe
    from miras_search.search.candidate import Candidate, Draw, Question
    from miras_search.space import Space
    from miras_search.variant import Variant

NEIGHBOURS = 20
"""How many neighbours a point has at most: a range has no end of them."""
OPTIONS = 64
"""How many points are weighed against each other: each has to be drawn."""


class Endless:
    """Points are candidates, and as far apart as the answers in which both differ.

    Where only the learning rate has no end, variants are counted once and drawn uniformly;
    else every choice is drawn uniformly.
    """

    def __init__(self, space: Space, recipe: Recipe) -> None:
        self.space, self.recipe = space, recipe
        self.questions: dict[str, Question] = {}
        self._beginnings: list[Mapping[str, Any]] = [{}]
        self._counted: dict[str, Mapping[str, Any]] | None = None
        if reach.uncountable(space, recipe) is None:
            counted = Pool.of(space, recipe.model_copy(update={"lr": Fixed(1.0)}))
            self._beginnings = [candidate.answers for candidate in counted.candidates]
            self._counted = {
                candidate.digest: candidate.answers for candidate in counted.candidates
            }

    def candidate(self, point: Candidate) -> Candidate:
        return point

    def find(self, answers: Mapping[str, Any]) -> Candidate | None:
        return self._draw(Remembered(answers, RandomChooser(random.Random(0)))).candidate

    def locate(self, variant: Variant, lr: float) -> Candidate | None:
        """Where variants cannot be counted, one is found by the form that it is given in."""
        if self._counted is None:
            ways = [*space_answers(self.space, variant)]
        else:
            ways = [self._counted[variant.digest]] if variant.digest in self._counted else []
        rate = rate_answers(self.recipe.lr, lr)
        found = (self.find({**answers, **rate}) for answers in ways)
        return next((point for point in found if point and point.digest == variant.digest), None)

    def random(self, tried: Collection[Candidate], rng: random.Random) -> Candidate | None:
        for _ in range(TRIES):
            beginning = self._beginnings[rng.randrange(len(self._beginnings))]
            point = self._draw(Remembered(beginning, RandomChooser(rng))).candidate
            if point is not None and point not in tried:
                return point
        return None

    def near(
        self, origin: Candidate, tried: Collection[Candidate], rng: random.Random
    ) -> Candidate | None:
        return self._changed(origin.answers, tried, rng) or self.random(tried, rng)

    def neighbour(
        self, origin: Candidate, tried: Collection[Candidate], rng: random.Random
    ) -> Candidate | None:
        if sum(_apart(origin.answers, other.answers) == 1 for other in tried) >= NEIGHBOURS:
            return None
        return self._changed(origin.answers, tried, rng)

    def options(
        self, origin: Candidate, tried: Collection[Candidate], rng: random.Random
    ) -> list[Candidate]:
        drawn = [self.near(origin, tried, rng) for _ in range(OPTIONS // 2)]
        drawn += [self.random(tried, rng) for _ in range(OPTIONS // 2)]
        return list(dict.fromkeys(point for point in drawn if point is not None))

    def snap(
        self, chooser: Chooser, tried: Collection[Candidate], rng: random.Random
    ) -> Candidate | None:
        drawn = self._draw(chooser)
        if drawn.candidate is not None and drawn.candidate not in tried:
            return drawn.candidate
        return self._changed(drawn.answers, tried, rng) or self.random(tried, rng)

    def _changed(
        self, answers: Mapping[str, Any], tried: Collection[Candidate], rng: random.Random
    ) -> Candidate | None:
        """One answer drawn again, with whatever it opens."""
        names = list(answers)
        for _ in range(TRIES):
            one = names[rng.randrange(len(names))]
            others = {name: answer for name, answer in answers.items() if name != one}
            point = self._draw(Remembered(others, RandomChooser(rng))).candidate
            if point is not None and point not in tried:
                return point
        return None

    def _draw(self, chooser: Chooser) -> Draw:
        drawn = draw(self.space, self.recipe, chooser)
        self.questions |= drawn.questions
        return drawn


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Questions that both answer, differently."""
    return sum(one[name] != other[name] for name in one.keys() & other.keys())

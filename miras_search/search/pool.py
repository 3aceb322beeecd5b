"""A finite domain: every distinct feasible point, counted once, and how far apart they are."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from miras_search.search.aim import apart
from miras_search.search.candidate import Candidate, Draw, Remembered, draw, every
from miras_search.space import RandomChooser, Rejection
from miras_search.variant import Variant

if TYPE_CHECKING:
    from miras_search.nodes import Chooser
    from miras_search.recipe import Recipe
    from miras_search.search.candidate import Question
    from miras_search.space import Space

OPTIONS = 2000
"""How many points are weighed against each other at most."""


@dataclass
class Pool:
    """Points by number.

    A form is one way to write a point: one value for each axis, macro architecture, side field
    and the learning rate. Equal functions under several names have several forms. Two points are
    as far apart as the fewest axes in which any of their forms differ: what lies under an axis
    follows it, whichever part of a union it is written in.
    """

    space: Space
    recipe: Recipe
    candidates: Sequence[Candidate]
    """By digest; the learning rates of a variant one after another."""
    forms: np.ndarray
    """[forms, axes], a number for each value; those of a point one after another."""
    first: np.ndarray
    """[points], the first form of each."""
    codes: Sequence[Mapping[Any, int]]
    """The numbers of the values, for each axis."""
    questions: dict[str, Question]
    numbers: Mapping[Candidate, int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {candidate: i for i, candidate in enumerate(self.candidates)}

    @classmethod
    def of(cls, space: Space, recipe: Recipe, keep: Collection[tuple[str, float]] = ()) -> Pool:
        """The points, where they can be counted, or those of them with a key in `keep`."""
        forms: dict[Candidate, list[tuple[int, ...]]] = {}
        codes: list[dict[Any, int]] = [{} for _ in (*Variant.model_fields, "lr")]
        questions: dict[str, Question] = {}
        for drawn in every(space, recipe):
            candidate = drawn.candidate
            if candidate is None or (keep and candidate.key not in keep):
                continue
            form = tuple(c.setdefault(v, len(c)) for c, v in zip(codes, _form(drawn), strict=True))
            forms.setdefault(candidate, []).append(form)
            questions |= drawn.questions
        candidates = sorted(forms, key=lambda candidate: candidate.digest)
        lengths = [len(forms[candidate]) for candidate in candidates]
        return cls(
            space,
            recipe,
            candidates,
            np.array([form for c in candidates for form in forms[c]], dtype=np.int32),
            np.cumsum([0, *lengths[:-1]]),
            codes,
            questions,
        )

    def __len__(self) -> int:
        return len(self.candidates)

    def candidate(self, point: int) -> Candidate:
        return self.candidates[point]

    def find(self, answers: Mapping[str, Any]) -> int | None:
        chooser = Remembered(answers, RandomChooser(random.Random(0)))
        candidate = draw(self.space, self.recipe, chooser).candidate
        return None if candidate is None else self.numbers.get(candidate)

    def locate(self, variant: Variant, lr: float) -> int | None:
        points = self._rates.get(variant.digest, [])
        return min(points, key=lambda point: apart(self.candidates[point].lr, lr), default=None)

    @cached_property
    def _rates(self) -> dict[str, list[int]]:
        """The points of each variant."""
        found: dict[str, list[int]] = {}
        for point, candidate in enumerate(self.candidates):
            found.setdefault(candidate.digest, []).append(point)
        return found

    def untried(self, tried: Collection[int]) -> np.ndarray:
        """[points], whether each was never given out."""
        free = np.ones(len(self), dtype=bool)
        free[list(tried)] = False
        return free

    def random(self, tried: Collection[int], rng: random.Random) -> int | None:
        return _any(self.untried(tried), rng)

    def near(self, origin: int, tried: Collection[int], rng: random.Random) -> int | None:
        return self._nearest(self.forms_of(origin), tried, rng)

    def neighbour(self, origin: int, tried: Collection[int], rng: random.Random) -> int | None:
        return _any(self.untried(tried) & (self.distances(self.forms_of(origin)) == 1), rng)

    def options(self, origin: int, tried: Collection[int], rng: random.Random) -> list[int]:
        free = self.untried(tried).nonzero()[0]
        if len(free) > OPTIONS:
            distances = self.distances(self.forms_of(origin))[free]
            free = free[np.argsort(distances, kind="stable")]
            near, far = np.split(free, [OPTIONS // 2])
            free = np.concatenate([near, rng.sample(far.tolist(), OPTIONS // 2)])
        return free.tolist()

    def snap(self, chooser: Chooser, tried: Collection[int], rng: random.Random) -> int | None:
        drawn = draw(self.space, self.recipe, chooser)
        candidate = drawn.candidate
        if candidate is not None and candidate in self.numbers:
            return self.near(self.numbers[candidate], tried, rng)
        form = _form(drawn)
        # Without a form even, it is near to nothing.
        codes = [c.get(v, -1) for c, v in zip(self.codes, form, strict=True)] if form else []
        forms = np.array([codes]) if codes else np.full((1, len(self.codes)), -1)
        return self._nearest(forms, tried, rng)

    def forms_of(self, point: int) -> np.ndarray:
        """[forms of the point, axes]."""
        end = self.first[point + 1] if point + 1 < len(self) else None
        return self.forms[self.first[point] : end]

    def distances(self, forms: np.ndarray) -> np.ndarray:
        """[points], the fewest axes in which each differs from any of `forms`."""
        apart = np.full(len(self.forms), len(self.codes))
        for form in np.unique(forms, axis=0):  # one after another: there may be thousands
            apart = np.minimum(apart, (self.forms != form).sum(-1))
        return np.minimum.reduceat(apart, self.first)

    def _nearest(self, forms: np.ndarray, tried: Collection[int], rng: random.Random) -> int | None:
        free = self.untried(tried)
        if not free.any():
            return None
        distances = self.distances(forms)
        return _any(free & (distances == distances[free].min()), rng)


def _form(drawn: Draw) -> tuple[Any, ...]:
    """One value for each axis; none where the values cannot stand side by side."""
    written = drawn.written.written if isinstance(drawn.written, Rejection) else drawn.written
    if written is None:
        return ()
    return (*(getattr(written, name) for name in Variant.model_fields), drawn.lr)


def _any(which: np.ndarray, rng: random.Random) -> int | None:
    """A random place that is true."""
    places = which.nonzero()[0]
    return int(places[rng.randrange(len(places))]) if len(places) else None

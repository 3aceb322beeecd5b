"""A small world of people, places and things, as in bAbI: what happens, and questions about it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import NamedTuple

PEOPLE = ("Mary", "John", "Sandra", "Daniel")
PLACES = ("kitchen", "hallway", "garden", "office", "bathroom", "bedroom")
THINGS = ("football", "apple", "milk")

_PERSON, _PLACE, _THING = (max(words, key=len) for words in (PEOPLE, PLACES, THINGS))
FACT = len(f"{_PERSON} picked up the {_THING}. ")
"""Bytes of the longest fact, with a space."""
ASKED = len(f"Where was the {_THING} before the {_PLACE}? {_PLACE}")
"""Bytes of the longest question, with its answer."""


class Story(NamedTuple):
    """Facts in the order in which they happened, a question about them, and its answer."""

    facts: tuple[str, ...]
    question: str
    answer: str


class World:
    """Who is where, who holds what, and where each thing has been.

    A person moves to another place than the present one. A thing is taken where it was dropped, for
    the first time anywhere, and moves with whom holds it.
    """

    def __init__(self) -> None:
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.path: dict[str, list[str]] = {}
        """The places of each thing in order, two in a row never the same."""

    def act(self, hops: int, random: Random) -> str:
        """Let someone do one of the sorts of things that they can do, and say what was done.

        Questions of one hop are about people, who then only move.
        """
        person = random.choice(PEOPLE)
        here = self.place.get(person)
        held = [thing for thing, holder in self.holder.items() if holder == person]
        free = [
            thing
            for thing in THINGS
            if thing not in self.holder and self.path.get(thing, [here])[-1] == here
        ]
        choices: dict[Callable[[str, str], str], list[str]] = {
            self._move: [place for place in PLACES if place != here]
        }
        if hops > 1 and here is not None:
            choices |= {self._take: free, self._drop: held}
        act = random.choice([act for act, objects in choices.items() if objects])
        return act(person, random.choice(choices[act]))

    def _move(self, person: str, place: str) -> str:
        self.place[person] = place
        for thing, holder in self.holder.items():
            if holder == person:
                self.path[thing].append(place)
        return f"{person} went to the {place}."

    def _take(self, person: str, thing: str) -> str:
        self.holder[thing] = person
        self.path.setdefault(thing, [self.place[person]])
        return f"{person} picked up the {thing}."

    def _drop(self, person: str, thing: str) -> str:
        del self.holder[thing]
        return f"{person} dropped the {thing}."

    def questions(self, hops: int) -> list[tuple[str, str]]:
        """Every question that takes so many facts to answer, with its answer.

        1: where a person went. 2: who had a thing last, and where they were then. 3: where the
        person who had a thing was before they went to a place; asked of places that the thing came
        to once.
        """
        if hops == 1:
            return [(f"Where is {person}?", place) for person, place in self.place.items()]
        if hops == 2:
            return [(f"Where is the {thing}?", path[-1]) for thing, path in self.path.items()]
        return [
            (f"Where was the {thing} before the {place}?", before)
            for thing, path in self.path.items()
            for before, place in pairwise(path)
            if path.count(place) == 1
        ]


def story(hops: int, facts: tuple[int, int], random: Random) -> Story:
    """A story of facts[0] to facts[1] facts, and one of the questions of `hops` hops about it.

    A number of facts is drawn, and stories of that number until there is such a question.
    """
    count = random.randint(*facts)
    while True:
        world = World()
        told = tuple(world.act(hops, random) for _ in range(count))
        if questions := world.questions(hops):
            return Story(told, *random.choice(questions))


@lru_cache(maxsize=64)
def habit(hops: int, facts: tuple[int, int]) -> float:
    """How often the better of two habits is right, measured on 1000 stories.

    They are to say any place, or the last place, of those that the facts name and the question
    does not.
    """
    random = Random("habit")
    anywhere, last = Fraction(0), Fraction(0)
    for _ in range(1000):
        told = story(hops, facts, random)
        moves = [fact.split()[-1][:-1] for fact in told.facts if " went to " in fact]
        named = [place for place in moves if place not in told.question]
        anywhere += Fraction(1, len({*named}))
        last += named[-1] == told.answer
    return float(max(anywhere, last) / 1000)

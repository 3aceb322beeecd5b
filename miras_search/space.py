"""A space: what to search, from YAML to feasible variants.

A file fixes, lists or ranges over the fields of a variant (see `nodes`), forbids combinations
(see `where`), merges in named sub-spaces (`include`) or is the union of several (`union`). Read,
it is flat and frozen: a tuple of parts, each a product of nodes under rules.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path as File
from typing import Any

from miras_search import legality
from miras_search.errors import InvalidValues, UserError
from miras_search.nodes import Chooser, Fixed, Node, Range, multiply
from miras_search.variant import Variant
from miras_search.where import Rule
from miras_search.yaml_file import Override, dump

MAX_COMBINATIONS = 500_000
"""More are not told apart one by one: that is a minute of work."""

TRIES = 1000
"""Random points looked at before a space is taken to have no feasible one."""


@dataclass(frozen=True)
class Rejection:
    """A point of the space that is not a variant, and why."""

    reason: str
    written: Variant | None = None
    """The point itself, where its values can stand side by side."""


@dataclass(frozen=True)
class Part:
    """A product of independent nodes, of which the points that meet every rule count."""

    label: str
    nodes: tuple[tuple[str, Node], ...]
    where: tuple[Rule, ...] = ()

    def draw(self, chooser: Chooser, prefix: str) -> Variant | Rejection:
        try:
            values = {name: node.draw(prefix + name, chooser) for name, node in self.nodes}
        except InvalidValues as error:
            return Rejection(str(error))
        return self._judge(values)

    def points(self) -> Iterator[Variant | Rejection]:
        """Every combination of a finite part; each component is built once."""
        names = [name for name, _ in self.nodes]
        for values in product(*(tuple(node.values()) for _, node in self.nodes)):
            broken = next((value for value in values if isinstance(value, InvalidValues)), None)
            if broken:
                yield Rejection(str(broken))
            else:
                yield self._judge(dict(zip(names, values, strict=True)))

    def _judge(self, values: Mapping[str, Any]) -> Variant | Rejection:
        variant = Variant(**values)
        for rule in self.where:
            if not rule.holds(variant):
                return Rejection(f"where: {rule.text}", variant)
        reasons = legality.reasons(variant)
        return Rejection(reasons[0], variant) if reasons else variant

    def plain(self) -> dict[str, Any]:
        """The YAML of this part."""
        plain = {name: node.plain() for name, node in self.nodes}
        return plain | ({"where": [rule.text for rule in self.where]} if self.where else {})


@dataclass(frozen=True)
class Space:
    """The union of a few parts, with a name for people and a digest for machines."""

    name: str
    parts: tuple[Part, ...]
    source: str | None = None
    """Where it comes from: for a published model, its paper and equation."""

    @classmethod
    def load(cls, file: str | File, overrides: Iterable[str | Override] = ()) -> Space:
        """Read a space and everything it includes; a bare name such as "yaad" is a shipped one.

        Raises:
            UserError: every problem of every file, or why no point of the space is feasible.
        """
        from miras_search.space_file import load

        return load(file, overrides)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "space") -> Space:
        """A space from plain values, as YAML gives them.

        Raises:
            UserError: every problem, or why no point of the space is feasible.
        """
        from miras_search.space_file import from_dict

        return from_dict(data, name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without includes and unions of names: `from_dict` reads them back."""
        about = {"name": self.name} | ({"source": self.source} if self.source else {})
        if len(self.parts) == 1:
            return about | self.parts[0].plain()
        return about | {"union": [{"name": p.label, **p.plain()} for p in self.parts]}

    def to_yaml(self) -> str:
        """One file with everything that was included: `load` gives an equal space."""
        return dump(self.to_dict())

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits, equal for spaces that ask the same questions in the same order."""
        content = {**self.to_dict(), "name": None}
        content.pop("source", None)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @cached_property
    def infinite(self) -> str | None:
        """Why the variants cannot be counted, or None if they can."""
        for part, prefix in zip(self.parts, self._prefixes, strict=True):
            for name, node in part.nodes:
                told = node.continuous(prefix + name)
                if told:
                    return told
        if self.combinations > MAX_COMBINATIONS:
            return (
                f"{self.combinations:,} combinations are more than the {MAX_COMBINATIONS:,} "
                "that can be told apart one by one"
            )
        return None

    @cached_property
    def combinations(self) -> int:
        """How many points there are before any is rejected or merged; a continuous range is one."""
        return sum(
            multiply((node.count() or 1) for _, node in part.nodes) or 0 for part in self.parts
        )

    @property
    def size(self) -> int:
        """The exact number of distinct feasible variants.

        Raises:
            UserError: there is no such number; see `infinite`.
        """
        self._require_finite()
        return self._counts[0]

    def rejections(self) -> dict[str, int]:
        """How many combinations each reason rejects, most first; each counts once.

        Of an infinite space, `TRIES` random points are counted instead.
        """
        if self.infinite is None:
            return dict(self._counts[1])
        rng = random.Random(0)
        points = (self.draw(RandomChooser(rng)) for _ in range(TRIES))
        return _tally(point.reason for point in points if isinstance(point, Rejection))

    def enumerate(self) -> Iterator[Variant]:
        """Every distinct feasible variant as first written, the last key changing fastest.

        Raises:
            UserError: the variants cannot be counted; see `infinite`.
        """
        self._require_finite()
        seen: set[Variant] = set()
        for part in self.parts:
            for point in part.points():
                if isinstance(point, Variant) and (simplest := point.canonical) not in seen:
                    seen.add(simplest)
                    yield point

    def sample(self, rng: random.Random) -> Variant:
        """A random feasible variant: every choice is drawn uniformly, infeasible draws again.

        Raises:
            UserError: no feasible point in `TRIES` draws.
        """
        chooser = RandomChooser(rng)
        reasons: list[str] = []
        for _ in range(TRIES):
            point = self.draw(chooser)
            if isinstance(point, Variant):
                return point
            reasons.append(point.reason)
        raise UserError(self._contradiction(_tally(reasons)))

    def draw(self, chooser: Chooser) -> Variant | Rejection:
        """One point, asking the chooser only what is open, by names such as `bias.lp.p`.

        The names and labels of a space depend on nothing but its digest. With several parts the
        first question is `space`, and the names of a part begin with its label.
        """
        i = 0
        if len(self.parts) > 1:
            i = chooser.choice("space", tuple(part.label for part in self.parts))
        return self.parts[i].draw(chooser, self._prefixes[i])

    def values(self, field: str) -> list[Any]:
        """Every value that a side field or the macro takes somewhere in the space."""
        default = Fixed(Variant.model_fields[field].default)
        nodes = (dict(part.nodes).get(field, default) for part in self.parts)
        return list(dict.fromkeys(value for node in nodes for value in node.values()))

    @property
    def varying(self) -> list[str]:
        """The fields of a variant that are not the same everywhere."""
        found = []
        for name, field in Variant.model_fields.items():
            nodes = [dict(part.nodes).get(name, Fixed(field.default)) for part in self.parts]
            if len({str(node.plain()) for node in nodes}) > 1 or nodes[0].count() != 1:
                found.append(name)
        return found

    def require_feasible(self) -> None:
        """Find one feasible point.

        Raises:
            UserError: there is none; the reasons with their counts.
        """
        if self.infinite is not None:
            self.sample(random.Random(0))
        elif next(self.enumerate(), None) is None:
            raise UserError(self._contradiction(self.rejections()))

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return ("",) if len(self.parts) == 1 else tuple(f"{p.label}/" for p in self.parts)

    @cached_property
    def _counts(self) -> tuple[int, dict[str, int]]:
        points = [point for part in self.parts for point in part.points()]
        distinct = {point.canonical for point in points if isinstance(point, Variant)}
        return len(distinct), _tally(p.reason for p in points if isinstance(p, Rejection))

    def _require_finite(self) -> None:
        if self.infinite is not None:
            raise UserError(f"space {self.name} cannot be counted: {self.infinite}")

    def _contradiction(self, reasons: Mapping[str, int]) -> str:
        told = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
        return f"no feasible variant, all {sum(reasons.values())} combinations rejected: {told}"


@dataclass(frozen=True)
class RandomChooser:
    """Draws every choice uniformly and every number from its range."""

    rng: random.Random

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        return self.rng.randrange(len(labels))

    def number(self, name: str, range: Range) -> float | int:
        return range.sample(self.rng)


def _tally(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())

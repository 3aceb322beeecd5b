"""What may stand at a key of a space: a value, a list of choices, a range, or a kind.

    3                            Fixed: one value
    [1, 2, {uniform: [3, 4]}]    Choices: one of several nodes
    {log_uniform: [1e-3, 1e-1]}  Range: a number between two ends
    {kind: lp, p: [2, 3]}        Kind: a component, whose fields are nodes again

Each is immutable and hashable, and every value in it has been validated against the field it
is for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, product
from typing import Any, Literal, Protocol, TypeAlias

from miras_search import parsing
from miras_search.component import Component
from miras_search.errors import InvalidValues
from miras_search.yaml_file import flow

Scale = Literal["uniform", "log_uniform", "integer"]
SCALES: tuple[Scale, ...] = ("uniform", "log_uniform", "integer")


class Chooser(Protocol):
    """Whoever picks a point: a random generator, a grid, an Optuna trial."""

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        """The position of the label picked."""
        ...

    def number(self, name: str, range: Range) -> float | int:
        """A number inside the range."""
        ...


@dataclass(frozen=True)
class Fixed:
    """One value: nothing is asked."""

    value: Any

    def draw(self, name: str, chooser: Chooser) -> Any:
        return self.value

    def values(self) -> Iterator[Any]:
        yield self.value

    def count(self) -> int | None:
        return 1

    def continuous(self, name: str) -> str | None:
        return None

    def plain(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; finite if it has a step."""

    scale: Scale
    low: float | int
    high: float | int
    step: float | int | None = None

    def draw(self, name: str, chooser: Chooser) -> float | int:
        return self.nearest(chooser.number(name, self))

    def nearest(self, value: float | int) -> float | int:
        """The grid point next to a value, free of the rounding errors of adding steps."""
        if self.step is None:
            return min(max(value, self.low), self.high)
        last = (self.count() or 1) - 1
        return self.at(min(max(round((value - self.low) / self.step), 0), last))

    def sample(self, rng: random.Random) -> float | int:
        """A random number of the range, uniform in the value or in its logarithm."""
        count = self.count()
        if count is not None:
            return self.at(rng.randrange(count))
        if self.scale == "log_uniform":
            low, high = math.log(self.low), math.log(self.high)
            return self.nearest(math.exp(rng.uniform(low, high)))
        return rng.uniform(self.low, self.high)

    def values(self) -> Iterator[float | int]:
        """Every number, if there is a step."""
        for i in range(self.count() or 0):
            yield self.at(i)

    def count(self) -> int | None:
        """How many numbers, or None without a step."""
        if self.step is None:
            return None
        return int((exact(self.high) - exact(self.low)) / exact(self.step)) + 1

    def continuous(self, name: str) -> str | None:
        """A sentence if this is what makes a space infinite."""
        if self.step is not None:
            return None
        return f"{name} is a continuous range, {flow(self.plain())}"

    def plain(self) -> dict[str, Any]:
        shown: dict[str, Any] = {self.scale: [self.low, self.high]}
        whole = self.scale == "integer" and self.step == 1
        return shown if self.step is None or whole else shown | {"step": self.step}

    def at(self, i: int) -> float | int:
        number = exact(self.low) + i * exact(self.step)
        return int(number) if self.scale == "integer" else float(number)


@dataclass(frozen=True)
class Kind:
    """A component of one class, some of whose fields are open."""

    cls: type[Component]
    fields: tuple[tuple[str, Node], ...]

    def draw(self, name: str, chooser: Chooser) -> Component:
        """Raises `InvalidValues` where fields that are right by themselves do not go together."""
        return self.build({f: node.draw(f"{name}.{f}", chooser) for f, node in self.fields})

    def build(self, values: Mapping[str, Any]) -> Component:
        return parsing.model(self.cls, values)

    def values(self) -> Iterator[Component | InvalidValues]:
        """Every component, or why it cannot be built."""
        names = [name for name, _ in self.fields]
        for point in product(*(tuple(node.values()) for _, node in self.fields)):
            try:
                yield self.build(dict(zip(names, point, strict=True)))
            except InvalidValues as error:
                yield error

    def count(self) -> int | None:
        return multiply(node.count() for _, node in self.fields)

    def continuous(self, name: str) -> str | None:
        return next(filter(None, (node.continuous(f"{name}.{f}") for f, node in self.fields)), None)

    def plain(self) -> Any:
        fields = {name: node.plain() for name, node in self.fields}
        return {"kind": self.cls.kind, **fields} if fields else self.cls.kind


@dataclass(frozen=True)
class Choices:
    """One of several nodes; with a single one nothing is asked."""

    options: tuple[Node, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What a chooser is shown: values as YAML, kinds by name while the name is unique."""
        return tuple(
            tag if "#" not in tag and isinstance(option, Kind) else flow(option.plain())
            for tag, option in zip(self.tags, self.options, strict=True)
        )

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """What stands for each option in the names of what lies under it."""
        stems = [_stem(option) for option in self.options]
        return tuple(
            stem if stems.count(stem) == 1 else f"{stem}#{stems[: i + 1].count(stem)}"
            for i, stem in enumerate(stems)
        )

    def draw(self, name: str, chooser: Chooser) -> Any:
        i = chooser.choice(name, self.labels) if len(self.options) > 1 else 0
        return self.options[i].draw(f"{name}.{self.tags[i]}", chooser)

    def values(self) -> Iterator[Any]:
        return chain.from_iterable(option.values() for option in self.options)

    def count(self) -> int | None:
        counts = [option.count() for option in self.options]
        return None if None in counts else sum(filter(None, counts))

    def continuous(self, name: str) -> str | None:
        under = (
            option.continuous(f"{name}.{tag}")
            for tag, option in zip(self.tags, self.options, strict=True)
        )
        return next(filter(None, under), None)

    def plain(self) -> Any:
        shown = [option.plain() for option in self.options]
        return shown if len(shown) > 1 else shown[0]


Node: TypeAlias = Fixed | Range | Kind | Choices


def multiply(counts: Iterator[int | None]) -> int | None:
    """The product, or None as soon as one is None."""
    total = 1
    for count in counts:
        if count is None:
            return None
        total *= count
    return total


def _stem(option: Node) -> str:
    match option:
        case Kind(cls=cls):
            return cls.kind
        case Range(scale=scale):
            return scale
    return flow(option.plain())


def exact(number: float | int | None) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    return Fraction(repr(number))

"""From a variant and a learning rate back to the answers that lead there, or next to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from miras_search.nodes import Choices, Fixed, Kind, Node, Range
from miras_search.search.candidate import LR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miras_search.space import Space
    from miras_search.variant import Variant

    Way = tuple[float, dict[str, Any]]
    """How far off, and the answers."""


def apart(one: float, other: float) -> float:
    """How far two learning rates are from each other, in the logarithm."""
    return abs(math.log(one / other))


def space_answers(space: Space, variant: Variant) -> Iterator[dict[str, Any]]:
    """For each part of the space, what to answer to come closest to a variant.

    Draw it to see whether it is the same function: what no answer gives may not matter.
    """
    several = len(space.parts) > 1
    for part in space.parts:
        label, prefix = ({"space": part.label}, f"{part.label}/") if several else ({}, "")
        ways = [
            _toward(node, prefix + name, getattr(variant, name), lambda a, b: float(a != b))
            for name, node in part.nodes
        ]
        yield label | _joined(ways)[1]


def rate_answers(node: Node, lr: float) -> dict[str, Any]:
    """What to answer for the nearest learning rate."""
    return _toward(node, LR, lr, apart)[1]


def _toward(node: Node, name: str, value: Any, gap: Callable[[Any, Any], float]) -> Way:
    match node:
        case Fixed():
            return gap(node.value, value), {}
        case Range():
            if isinstance(value, bool) or not isinstance(value, int | float):
                return math.inf, {}
            near = node.nearest(value)
            return gap(near, value), {name: near}
        case Kind():
            if not isinstance(value, node.cls):
                return math.inf, {}
            return _joined(
                _toward(own, f"{name}.{field}", getattr(value, field), gap)
                for field, own in node.fields
            )
        case Choices():
            ways: list[Way] = []
            for label, tag, option in zip(node.labels, node.tags, node.options, strict=True):
                far, under = _toward(option, f"{name}.{tag}", value, gap)
                ways.append((far, {name: label, **under} if len(node.options) > 1 else under))
            return min(ways, key=lambda way: way[0])


def _joined(ways: Iterable[Way]) -> Way:
    total, answers = 0.0, {}
    for far, own in ways:
        total += far
        answers |= own
    return total, answers

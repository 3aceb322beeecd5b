"""From a variant and a learning rate back to the answers that lead there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from miras_search.nodes import Choices, Fixed, Kind, Range
from miras_search.search.candidate import LR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miras_search.nodes import Node
    from miras_search.space import Space
    from miras_search.variant import Variant


def apart(one: float, other: float) -> float:
    """How far two learning rates are from each other, in the logarithm."""
    return abs(math.log(one / other))


def space_answers(space: Space, variant: Variant) -> Iterator[dict[str, Any]]:
    """For each part that may have the variant, what to answer to draw it.

    Only what the part asks is looked at: draw it to see whether all else is the same.
    """
    several = len(space.parts) > 1
    for part in space.parts:
        label, prefix = ({"space": part.label}, f"{part.label}/") if several else ({}, "")
        found = [_answers(node, prefix + name, getattr(variant, name)) for name, node in part.nodes]
        if None not in found:
            yield label | {name: given for own in found if own for name, given in own.items()}


def rate_answers(node: Node, lr: float) -> dict[str, Any]:
    """What to answer for the nearest learning rate."""
    return _nearest(node, LR, lr)[1]


def _answers(node: Node, name: str, value: Any) -> dict[str, Any] | None:
    """None where the node never gives the value."""
    match node:
        case Fixed():
            return {} if node.value == value else None
        case Range():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return {name: value} if number and node.nearest(value) == value else None
        case Kind():
            if not isinstance(value, node.cls):
                return None
            found = [_answers(own, f"{name}.{f}", getattr(value, f)) for f, own in node.fields]
            if None in found:
                return None
            return {key: given for own in found if own for key, given in own.items()}
        case Choices():
            for label, tag, option in zip(node.labels, node.tags, node.options, strict=True):
                found = _answers(option, f"{name}.{tag}", value)
                if found is not None:
                    return found if len(node.options) == 1 else {name: label, **found}
            return None


def _nearest(node: Node, name: str, lr: float) -> tuple[float, dict[str, Any]]:
    """How far the nearest is, and the answers."""
    match node:
        case Range():
            value = node.nearest(lr)
            return apart(value, lr), {name: value}
        case Choices():
            ways = []
            for label, tag, option in zip(node.labels, node.tags, node.options, strict=True):
                gap, under = _nearest(option, f"{name}.{tag}", lr)
                ways.append((gap, {name: label, **under} if len(node.options) > 1 else under))
            return min(ways, key=lambda way: way[0])
        case Fixed():
            return apart(node.value, lr), {}
        case Kind():
            raise AssertionError("a learning rate has no kind")

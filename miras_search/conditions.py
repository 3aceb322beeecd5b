"""The expression tree of a `where:` rule, evaluated against a variant.

A comparison with a field that the chosen kind lacks (`bias.p` under l2), or one that has no
order (`algorithm.step > 0.1` with step "data"), is false; `!=` and `not in` are true.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from miras_search.variant import Variant

_MISSING = object()
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Name:
    """A field of the variant: ("bias", "p"), ("memory", "kind") or ("chunk",)."""

    parts: tuple[str, ...]

    def value(self, variant: Variant) -> Any:
        found: Any = variant
        for part in self.parts:
            found = getattr(found, part, _MISSING)
        return found


@dataclass(frozen=True)
class Literal:
    """A number, a text, true, false, null or a tuple of them."""

    constant: Any

    def value(self, variant: Variant) -> Any:
        return self.constant


Operand: TypeAlias = Name | Literal


@dataclass(frozen=True)
class Comparison:
    """`left op right op right ...`: true if every adjacent pair is."""

    left: Operand
    rest: tuple[tuple[str, Operand], ...]

    def pairs(self) -> Iterator[tuple[Operand, str, Operand]]:
        """Every adjacent pair."""
        left = self.left
        for op, right in self.rest:
            yield left, op, right
            left = right

    def holds(self, variant: Variant) -> bool:
        return all(_compare(a.value(variant), op, b.value(variant)) for a, op, b in self.pairs())


@dataclass(frozen=True)
class Not:
    """True where its part is false."""

    part: Condition

    def holds(self, variant: Variant) -> bool:
        return not self.part.holds(variant)


@dataclass(frozen=True)
class All:
    """Parts joined by `and`."""

    parts: tuple[Condition, ...]

    def holds(self, variant: Variant) -> bool:
        return all(part.holds(variant) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    """Parts joined by `or`."""

    parts: tuple[Condition, ...]

    def holds(self, variant: Variant) -> bool:
        return any(part.holds(variant) for part in self.parts)


Condition: TypeAlias = Comparison | Not | All | AnyOf


def _compare(left: Any, op: str, right: Any) -> bool:
    if left is _MISSING or right is _MISSING:
        return op in ("!=", "not in")
    match op:
        case "==":
            return left == right
        case "!=":
            return left != right
        case "in":
            return left in right
        case "not in":
            return left not in right
    return _ordered(left) and _ordered(right) and ORDER[op](left, right)


def _ordered(value: Any) -> bool:
    """Numbers are, words are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)

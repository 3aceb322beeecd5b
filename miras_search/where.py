"""`where:` rules: comparisons over a variant's fields, read into a tree of our own.

Python's parser reads the text and nothing else of Python is used: what is not and / or / not, a
comparison, a literal or a field of the space is refused.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miras_search import parsing, registry
from miras_search.conditions import (
    ORDER,
    All,
    AnyOf,
    Comparison,
    Condition,
    Literal,
    Name,
    Not,
    Operand,
)
from miras_search.errors import InvalidValues, Path, nearest
from miras_search.registry import CHOICES

if TYPE_CHECKING:
    from miras_search.variant import Variant

MAX_LENGTH = 1000
MAX_DEPTH = 40

_YAML_WORDS = {"true": True, "false": False, "null": None}
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}


@dataclass(frozen=True)
class Rule:
    """A condition that every variant of a space meets, with the text it was read from."""

    text: str
    condition: Condition

    def holds(self, variant: Variant) -> bool:
        """Whether the variant meets it."""
        return self.condition.holds(variant)

    @classmethod
    def parse(cls, text: Any, path: Path = ()) -> Rule:
        """Read one rule, such as `memory.kind != 'mlp' or bias.p >= 2`.

        Raises:
            InvalidValues: anything but comparisons of fields and literals, joined by
                and / or / not; with the place.
        """
        if not isinstance(text, str):
            raise InvalidValues([(path, f"expected a rule as text, got {text!r}")])
        text = text.strip()
        try:
            if len(text) > MAX_LENGTH:
                raise _Refused(f"expected a rule of at most {MAX_LENGTH} characters")
            return cls(text, _condition(_tree(text), 0))
        except _Refused as error:
            raise InvalidValues([(path, f"{error} in rule: {text[:200]}")]) from None


class _Refused(Exception):
    """What of the rule cannot be read."""


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            # Python warns of odd escapes and such in text that it will never run.
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _Refused(f"not a rule ({error.msg})") from None
    except (ValueError, MemoryError, RecursionError):
        raise _Refused("not a rule") from None


def _condition(node: ast.expr, depth: int) -> Condition:
    if depth > MAX_DEPTH:
        raise _Refused("nested too deeply")
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = tuple(_condition(value, depth + 1) for value in values)
            return All(parts) if isinstance(op, ast.And) else AnyOf(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_condition(operand, depth + 1))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            rest = tuple(
                (_operator(op), _operand(right)) for op, right in zip(ops, comparators, strict=True)
            )
            comparison = Comparison(_operand(left), rest)
            if not any(isinstance(side, Name) for a, _, b in comparison.pairs() for side in (a, b)):
                raise _Refused(f"expected a field in '{_spelled(node)}'")
            for pair in comparison.pairs():
                _check(*pair)
            return comparison
    raise _Refused(f"expected a comparison, got '{_spelled(node)}'")


def _operator(op: ast.cmpop) -> str:
    if type(op) not in _OPERATORS:
        raise _Refused(f"expected one of {' '.join(_OPERATORS.values())}")
    return _OPERATORS[type(op)]


def _operand(node: ast.expr) -> Operand:
    match node:
        case ast.Name(id=word) if word in _YAML_WORDS:
            return Literal(_YAML_WORDS[word])
        case ast.Name(id=word):
            return _field((word,))
        case ast.Attribute(value=ast.Name(id=word), attr=field):
            return _field((word, field))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return Literal(tuple(_constant(item) for item in items))
    return Literal(_constant(node))


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=word) if word in _YAML_WORDS:
            return _YAML_WORDS[word]
    raise _Refused(f"expected a field, a number or a quoted text, got '{_spelled(node)}'")


def _spelled(node: ast.expr) -> str:
    try:
        return ast.unparse(node)[:60]
    except RecursionError:
        return type(node).__name__


def _field(parts: tuple[str, ...]) -> Name:
    known = _fields()
    if parts not in known:
        word = ".".join(parts)
        if any(word in registry.kinds(choice) for choice in CHOICES):
            raise _Refused(f"unknown field '{word}': write the kind in quotes, '{word}'")
        raise _Refused(f"unknown field '{word}': {nearest(word, map('.'.join, known))}")
    return Name(parts)


def _fields() -> dict[tuple[str, ...], list[tuple[type[Any], str]]]:
    """Every field of a variant, with the classes that have it."""
    from miras_search.variant import Variant

    known: dict[tuple[str, ...], list[tuple[type[Any], str]]] = {}
    for choice in CHOICES:
        known[choice, "kind"] = []
        for cls in registry.kinds(choice).values():
            for name in cls.model_fields:
                known.setdefault((choice, name), []).append((cls, name))
    for name in Variant.model_fields:
        if name not in CHOICES:
            known[name,] = [(Variant, name)]
    return known


def _check(left: Operand, op: str, right: Operand) -> None:
    """Refuse a literal that no kind could have: the rule would be decided by a spelling error."""
    if op in ("in", "not in") and not (
        isinstance(right, Literal) and isinstance(right.constant, tuple)
    ):
        raise _Refused(f"expected a list after '{op}'")
    if op in ORDER:
        for side in (left, right):
            if isinstance(side, Literal) and type(side.constant) not in (int, float):
                raise _Refused(f"expected a number beside '{op}', got {side.constant!r}")
        return
    for name, other in ((left, right), (right, left)):
        if isinstance(name, Name) and isinstance(other, Literal):
            many = op in ("in", "not in")
            for value in other.constant if many else (other.constant,):
                _check_value(name, value)


def _check_value(name: Name, value: Any) -> None:
    word = ".".join(name.parts)
    if name.parts[1:] == ("kind",):
        known = registry.kinds(name.parts[0])
        if value not in known:
            raise _Refused(f"unknown {name.parts[0]} {value!r}: {nearest(str(value), known)}")
        return
    told = ""
    for cls, field in _fields()[name.parts]:
        try:
            parsing.field_value(cls, field, value)
            return
        except InvalidValues as error:
            told = str(error)
    raise _Refused(f"{word}: {told}")

"""Plain values in, nodes out: every value and both ends of a range validated at their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from miras_search import parsing
from miras_search.errors import InvalidValues, Path
from miras_search.nodes import SCALES, Choices, Fixed, Kind, Node, Range, Scale, exact
from miras_search.yaml_file import flow

Check: TypeAlias = Callable[[Any, Path], Any]
"""Validates one value at a place: returns it as the field holds it, or raises InvalidValues."""


def parse_choice(group: str, value: Any, path: Path) -> Choices:
    """The node of a choice: a kind, a mapping with one, or a list of those.

    Raises:
        InvalidValues: every problem below `path`, with places.
    """
    parse_kind = partial(_kind, group)
    node = _choices(value, path, parse_kind) if isinstance(value, list) else parse_kind(value, path)
    return node if isinstance(node, Choices) else Choices((node,))


def parse_field(value: Any, path: Path, check: Check) -> Node:
    """The node of a field whose values `check` validates.

    Raises:
        InvalidValues: every problem below `path`, with places.
    """

    def leaf(value: Any, path: Path) -> Node:
        if isinstance(value, Mapping):
            return _range(value, path, check)
        return Fixed(check(value, path))

    return _choices(value, path, leaf) if isinstance(value, list) else leaf(value, path)


def _kind(group: str, value: Any, path: Path) -> Kind:
    cls, given = parsing.component_class(group, value, path)
    found: list[tuple[Path, str]] = []
    nodes: dict[str, Node] = {}
    for name, field in given.items():
        place = (*path, name)
        try:
            if name not in cls.model_fields:
                raise InvalidValues([(place, parsing.unknown_key(name, cls.model_fields))])

            def check(value: Any, path: Path, name: str = name) -> Any:
                return parsing.field_value(cls, name, value, path)

            nodes[name] = parse_field(field, place, check)
        except InvalidValues as error:
            found += error.found
    missing = [name for name, info in cls.model_fields.items() if info.is_required()]
    found += [((*path, name), "this key is required") for name in missing if name not in given]
    if found:
        raise InvalidValues(found)
    kind = Kind(cls, tuple((name, nodes[name]) for name in cls.model_fields if name in nodes))
    fixed = {name: node.value for name, node in nodes.items() if isinstance(node, Fixed)}
    if len(fixed) == len(nodes):
        parsing.model(cls, fixed, path)
    return kind


def _choices(items: list[Any], path: Path, parse: Callable[[Any, Path], Node]) -> Node:
    if not items:
        raise InvalidValues([(path, "expected at least one choice, got an empty list")])
    found: list[tuple[Path, str]] = []
    options: dict[Node, Path] = {}
    for i, item in enumerate(items):
        place = (*path, i)
        try:
            option = parse(item, place)
            if option in options:
                raise InvalidValues([(place, f"choice given twice: {flow(option.plain())}")])
            options[option] = place
        except InvalidValues as error:
            found += error.found
    if found:
        raise InvalidValues(found)
    return next(iter(options)) if len(options) == 1 else Choices(tuple(options))


def _range(value: Mapping[str, Any], path: Path, check: Check) -> Range:
    given: list[Scale] = [scale for scale in SCALES if scale in value]
    if len(given) != 1:
        wanted = (
            "a value, a list of choices, or a range {uniform | log_uniform | integer: [low, high]}"
        )
        raise InvalidValues([(path, f"expected {wanted}, got {flow(dict(value))}")])
    scale = given[0]
    allowed = [scale] if scale == "log_uniform" else [scale, "step"]
    found: list[tuple[Path, str]] = [
        ((*path, key), parsing.unknown_key(key, allowed)) for key in value if key not in allowed
    ]
    ends, step = value[scale], value.get("step")
    step = 1 if step is None and scale == "integer" else step
    if not (isinstance(ends, list) and len(ends) == 2 and all(_number(end, scale) for end in ends)):
        wanted = "whole numbers" if scale == "integer" else "numbers"
        found.append(((*path, scale), f"expected two {wanted}, [low, high], got {flow(ends)}"))
        raise InvalidValues(found)
    low, high = ends if scale == "integer" else map(float, ends)
    if low >= high:
        found.append(((*path, scale), f"expected low below high, got {flow(ends)}"))
    if scale == "log_uniform" and low <= 0:
        found.append(((*path, scale), f"expected ends above 0, got {flow(ends)}"))
    if "step" in allowed and step is not None:
        if not _number(step, scale) or step <= 0:
            wanted = "whole" if scale == "integer" else "positive"
            found.append(((*path, "step"), f"expected a {wanted} number above 0, got {step!r}"))
        elif low < high and (exact(high) - exact(low)) % exact(step):
            found.append(((*path, "step"), f"{high} is not {low} plus a number of steps of {step}"))
    for i, end in enumerate((low, high)):
        try:
            check(end, (*path, scale, i))
        except InvalidValues as error:
            found += error.found
    if found:
        raise InvalidValues(found)
    return Range(scale, low, high, step if scale == "integer" or step is None else float(step))


def _number(value: Any, scale: Scale) -> bool:
    kinds = int if scale == "integer" else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 2**63

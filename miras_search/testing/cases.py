"""Which settings are worth a test: read from the registry and from the fields of each kind."""

from __future__ import annotations

from itertools import combinations as combine
from itertools import pairwise, product
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from miras_search import legality, registry
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miras_search.component import Component

    C = TypeVar("C", bound=Component)

COMPANIONS = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
"""What stands on the other axes while the settings of one axis vary: a chain of matrices, gates
on both slots, and a loss whose gradient depends on all of them. Where a companion is not legal,
the first legal kind takes its place."""

INSIDE = 0.05
"""How far inside an excluded lower end a number is taken: a small step, a tight threshold."""


def cases(axis: str) -> list[Component]:
    """Example components of every registered kind of an axis."""
    return [case for cls in registry.kinds(axis).values() for case in cases_of(cls)]


def cases_of(cls: type[C]) -> list[C]:
    """Example components of one kind, the default first.

    Fields with named options are varied together, switches and numbers one at a time: every option,
    both ends, the default and points between them. What the kind itself refuses is left out.
    """
    options, numbers = {}, {}
    for name, field in cls.model_fields.items():
        found = list(_values(field.annotation, field.metadata, field.default))
        plain = get_origin(field.annotation) is Literal
        (options if plain else numbers)[name] = found
    named = [dict(zip(options, chosen, strict=True)) for chosen in product(*options.values())]
    single = [{name: value} for name, found in numbers.items() for value in found]
    made: dict[C, None] = dict.fromkeys([cls()])
    for setting in named:
        # An option may need another number than the default one.
        tried = (_made(cls, setting | number) for number in ({}, *single))
        if (case := next(filter(None, tried), None)) is not None:
            made.setdefault(case)
    for setting in single:
        if (case := _made(cls, setting)) is not None:
            made.setdefault(case)
    return list(made)


def _made(cls: type[C], setting: dict[str, Any]) -> C | None:
    try:
        return cls(**setting)
    except ValidationError:
        return None


def combinations(**side_choices: Any) -> Iterator[Variant]:
    """Every legal combination of registered kinds, each with its default settings."""
    kinds = [registry.kinds(axis).values() for axis in registry.AXES]
    for chosen in product(*kinds):
        axes = dict(zip(registry.AXES, (cls() for cls in chosen), strict=True))
        variant = Variant(**axes, **side_choices)
        if not legality.reasons(variant):
            yield variant


def pairs(**side_choices: Any) -> list[Variant]:
    """Combinations in which any two kinds that are legal together meet at least once.

    Most faults are of two choices, and this takes a few dozen variants where all combinations are
    thousands. Greedy: the next one is that with the most pairs that were not met.
    """
    left = [(v, _met(v)) for v in combinations(**side_choices)]
    missing, chosen = set().union(*(met for _, met in left)), []
    while missing:
        left = [(v, met & missing) for v, met in left]
        best, met = max(left, key=lambda entry: len(entry[1]))
        chosen.append(best)
        missing -= met
    return chosen


def _met(variant: Variant) -> set[tuple[str, str]]:
    """The pairs of kinds of a variant."""
    kinds = [f"{axis}={component.kind}" for axis, component in variant.axes().items()]
    return set(combine(kinds, 2))


def variants(**side_choices: Any) -> list[Variant]:
    """Every pair of kinds, then every setting of every kind once."""
    varied = (variant_with(case, **side_choices) for axis in registry.AXES for case in cases(axis))
    return list(dict.fromkeys([*pairs(**side_choices), *filter(None, varied)]))


def variant_with(component: Component, **side_choices: Any) -> Variant | None:
    """A legal variant around one component, with the companions as far as they are legal."""
    others = [axis for axis in registry.AXES if axis != component.axis]
    ordered = [
        sorted(
            registry.kinds(axis).items(), key=lambda entry: entry[0] != COMPANIONS[entry[1].axis]
        )
        for axis in others
    ]
    for chosen in product(*ordered):
        axes = {axis: cls() for axis, (_, cls) in zip(others, chosen, strict=True)}
        variant = Variant(**axes, **{component.axis: component}, **side_choices)
        if not legality.reasons(variant):
            return variant
    return None


def _values(annotation: Any, metadata: Iterable[Any], default: Any) -> Iterator[Any]:
    """Values of a type worth a test."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        yield from _values(inner, [*metadata, *more], default)
    elif origin in (Union, UnionType):
        for arm in get_args(annotation):
            yield from _values(arm, metadata, default)
    elif origin is Literal:
        yield from get_args(annotation)
    elif annotation is bool:
        yield from (False, True)
    elif annotation is NoneType:
        yield None
    elif annotation in (int, float):
        yield from _numbers(annotation, _bounds(metadata), default)


def _bounds(metadata: Iterable[Any]) -> dict[str, Any]:
    """The ends of a number by the name of the comparison: ge, gt, le, lt."""
    bounds: dict[str, Any] = {}
    for entry in metadata:
        for part in getattr(entry, "metadata", (entry,)):
            bounds |= {n: getattr(part, n) for n in ("ge", "gt", "le", "lt") if hasattr(part, n)}
    return bounds


def _numbers(kind: type, bounds: dict[str, Any], default: Any) -> list[Any]:
    """Ends, default and points between: all of a short integer range."""
    low = bounds.get("ge", bounds.get("gt", 0) + (1 if kind is int else INSIDE))
    high = bounds.get(
        "le", bounds["lt"] - (1 if kind is int else INSIDE) if "lt" in bounds else None
    )
    own = isinstance(default, (int, float)) and not isinstance(default, bool)
    if kind is int:
        top = low + 2 if high is None else high
        return list(range(low, top + 1)) if top - low < 5 else [low, (low + top) // 2, top]
    if high is None:
        high = 2 * default if own else low  # no end: twice what is usual
    marks = [low, default, high] if own and low < default < high else [low, high]
    between = [a + (b - a) * part for a, b in pairwise(marks) for part in (0.25, 0.75)]
    return sorted({*marks, *between})

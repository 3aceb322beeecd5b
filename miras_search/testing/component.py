"""What holds for a choice on any axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import ValidationError

from miras_search import parsing, registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miras_search.component import Coefficient, Component


def check_component(component: Component) -> None:
    """A frozen, hashable record that says what it is and survives a round trip through YAML."""
    cls = type(component)
    for name in ("axis", "kind", "equation", "source", "__doc__"):
        assert getattr(cls, name, None), f"{cls.__name__} does not say its {name}"
    assert component == component.model_copy(), "two equal records differ"
    assert hash(component) == hash(component.model_copy()), "equal records hash differently"
    for name in cls.model_fields:
        try:
            setattr(component, name, None)
        except ValidationError:
            continue
        raise AssertionError(f"{cls.__name__}.{name} can be assigned: components are frozen")
    if registry.kinds(component.axis).get(component.kind) is cls:
        for written in (component.to_dict(), component.to_yaml_value()):
            read = parsing.component(component.axis, written, ())
            assert read == component, f"{written!r} is read back as {read!r}"


def check_coefficients(wanted: Iterable[Coefficient]) -> None:
    """Names are distinct, and every value a coefficient starts from lies in its range."""
    wanted = list(wanted)
    names = [c.name for c in wanted]
    assert len(set(names)) == len(names), f"coefficients share a name: {names}"
    for c in wanted:
        assert c.name.isidentifier(), f"{c.name!r} cannot be the name of a gate"
        assert c.low < c.initial < c.high, (
            f"{c.name} starts at {c.initial}, outside {c.low}..{c.high}"
        )
        assert math.isfinite(c.low), f"{c.name} has no lower end"
        if not isinstance(c.source, str):
            assert c.low <= c.source, f"{c.name} is fixed at {c.source}, below {c.low}"

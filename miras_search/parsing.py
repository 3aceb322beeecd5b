"""Plain data in, validated models out; every problem found at once, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from miras_search import registry
from miras_search.component import Component
from miras_search.errors import InvalidValues, Path, UserError, nearest

M = TypeVar("M", bound=BaseModel)


def component(group: str, value: Any, path: Path = ()) -> Component:
    """A component from its kind, or from a mapping of `kind` and fields.

    Raises:
        InvalidValues: unknown kind, unknown field or wrong value; all of them, with places.
    """
    cls, fields = component_class(group, value, path)
    return model(cls, fields, path)


def component_class(group: str, value: Any, path: Path) -> tuple[type[Component], dict[str, Any]]:
    """The class that `value` names and the fields it gives, not yet validated.

    Raises:
        InvalidValues: not a kind nor a mapping with one, or an unknown kind.
    """
    original = value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        known = ", ".join(registry.kinds(group))
        raise InvalidValues([(path, f"expected one {group} kind of {known}, got {value!r}")])
    try:
        cls = registry.find(group, value["kind"])
    except UserError as error:
        given = isinstance(original, Mapping)
        raise InvalidValues([((*path, "kind") if given else path, str(error))]) from None
    return cls, {name: v for name, v in value.items() if name != "kind"}


def model(cls: type[M], fields: Any, path: Path = ()) -> M:
    """`cls(**fields)`, with every unknown, missing or wrong field told in one sentence.

    Raises:
        InvalidValues: all of them, with places; or it is no mapping.
    """
    if not isinstance(fields, Mapping):
        raise InvalidValues([(path, f"expected keys and values, got {fields!r}")])
    if strange := [key for key in fields if not isinstance(key, str)]:
        told = [
            ((*path, key if isinstance(key, int) else str(key)), unknown_key(key, cls.model_fields))
            for key in strange
        ]
        raise InvalidValues(told)
    try:
        return cls(**fields)
    except ValidationError as error:
        raise InvalidValues(_told(error, cls, path)) from None


def field_value(cls: type[BaseModel], name: str, value: Any, path: Path = ()) -> Any:
    """One value for the field `name` of `cls`, validated by itself.

    Raises:
        InvalidValues: the field does not take it, or there is no such field.
    """
    if name not in cls.model_fields:
        raise InvalidValues([(path, unknown_key(name, cls.model_fields))])
    try:
        return _adapter(cls, name).validate_python(value, strict=True)
    except ValidationError as error:
        raise InvalidValues([(path, _sentence(error.errors()))]) from None


def unknown_key(name: Any, known: Any) -> str:
    """The sentence for a key nobody reads."""
    known = [*known]
    return f"unknown key '{name}'" + (f": {nearest(str(name), known)}" if known else "")


@cache
def _adapter(cls: type[BaseModel], name: str) -> TypeAdapter[Any]:
    info = cls.model_fields[name]
    annotated: Any = Annotated[info.annotation, info]  # pyright: ignore[reportInvalidTypeForm]
    return TypeAdapter(annotated)


def _told(error: ValidationError, cls: type[BaseModel], path: Path) -> list[tuple[Path, str]]:
    """One problem for each field: pydantic gives one for each member of a union."""
    grouped: dict[Path, list[Any]] = {}
    for item in error.errors():
        grouped.setdefault(item["loc"][:1], []).append(item)
    found = []
    for loc, items in grouped.items():
        if items[0]["type"] == "extra_forbidden":
            found.append(((*path, *loc), unknown_key(loc[0], cls.model_fields)))
        else:
            found.append(((*path, *loc), _sentence(items)))
    return found


def _sentence(items: list[Any]) -> str:
    if items[0]["type"] == "missing":
        place = items[0]["loc"][-1:]
        if place and isinstance(place[0], int):
            return f"expected a list of more than {place[0]}, got {items[0]['input']!r}"
        return "this key is required"
    if items[0]["type"] == "value_error":
        return str(items[0]["ctx"]["error"])
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in items))
    return f"expected {wanted}, got {items[0]['input']!r}"


def _wanted(item: Any) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "literal_error":
            return str(context["expected"])
        case "int_type" | "int_parsing" | "int_from_float":
            return "a whole number"
        case "float_type" | "float_parsing":
            return "a number"
        case "string_type":
            return "text"
        case "bool_type":
            return "true or false"
        case "tuple_type" | "list_type":
            return "a list"
        case "model_type" | "dict_type":
            return "keys and values"
        case "none_required":
            return "null"
        case "greater_than":
            return f"more than {context['gt']}"
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "less_than":
            return f"less than {context['lt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "finite_number":
            return "a finite number"
        case "multiple_of":
            return f"a multiple of {context['multiple_of']}"
        case "json_type" | "json_invalid":
            return "JSON"
        case "string_too_short":
            return "text that is not empty"
        case _:
            return item["msg"]

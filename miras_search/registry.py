"""The one list of choices: a decorator fills it; our packages and entry points are its sources."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from miras_search.errors import UserError, nearest

if TYPE_CHECKING:
    from miras_search.component import Component

    C = TypeVar("C", bound=type[Component])
else:
    C = TypeVar("C")

ENTRY_POINT_GROUP = "miras_search.components"
"""A package names a module (or class) here; importing it is what registers its components."""

AXES = ("memory", "bias", "retention", "algorithm")
"""The four axes of the design space, in the order they are always shown."""

CHOICES = (*AXES, "macro")
"""What a variant is made of: the axes, and the macro architecture that may be left out."""

_PACKAGES = {choice: choice for choice in CHOICES} | {"task": "tasks"}
_kinds: dict[str, dict[str, type[Component]]] = {group: {} for group in _PACKAGES}


def register(cls: C) -> C:
    """Enter a component class under its axis and kind.

    Raises:
        ValueError: another class already has this kind.
        TypeError: the class leaves a fact open that its axis asks for.
    """
    for base in cls.__mro__:
        for name, annotation in vars(base).get("__annotations__", {}).items():
            if "ClassVar" in str(annotation) and not hasattr(cls, name):
                told = f"{cls.__module__}.{cls.__qualname__} does not say its '{name}'"
                raise TypeError(f"{told}: expected {name}: {annotation}")
    taken = _kinds[cls.axis].setdefault(cls.kind, cls)
    if taken is not cls:
        where = f"{taken.__module__}.{taken.__qualname__}"
        raise ValueError(
            f"{cls.axis} kind '{cls.kind}' of {cls.__module__}.{cls.__qualname__} "
            f"is already taken by {where}"
        )
    return cls


@cache
def _load() -> None:
    for package in _PACKAGES.values():
        root = importlib.import_module(f"miras_search.{package}")
        for module in pkgutil.iter_modules(root.__path__):
            importlib.import_module(f"{root.__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else "a package"
            told = f"{package}: its components '{entry.value}' cannot be loaded"
            raise UserError(f"{told}: {type(error).__name__}: {error}") from error


def kinds(group: str) -> dict[str, type[Component]]:
    """Every registered kind of an axis (or of "task"), sorted by name."""
    _load()
    return dict(sorted(_kinds[group].items()))


def find(group: str, kind: str) -> type[Component]:
    """The class of one kind.

    Raises:
        UserError: no such kind; the message names the nearest one.
    """
    known = kinds(group)
    if kind not in known:
        raise UserError(f"unknown {group} '{kind}': {nearest(kind, known)}")
    return known[kind]

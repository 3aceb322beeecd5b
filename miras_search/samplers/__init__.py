"""Who picks the next point: a file of the same name for each, found by that name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miras_search.samplers.base import Sampler


@cache
def names() -> tuple[str, ...]:
    """Every sampler, sorted; nothing is imported."""
    return tuple(sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"base"}))


def find(name: str) -> type[Sampler]:
    """The class of one of `names()`: called as its file, with a capital letter."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), name.capitalize())

"""Search the MIRAS design space: sequence models as memories that learn while they read."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miras_search.checkpoint import load as load
    from miras_search.checkpoint import load_state as load_state
    from miras_search.checkpoint import save_state as save_state
    from miras_search.errors import UserError as UserError
    from miras_search.layer import memorize as memorize
    from miras_search.layer import recall as recall
    from miras_search.layer import surprise as surprise
    from miras_search.lit import MemoryModule as MemoryModule
    from miras_search.lower.call import State as State
    from miras_search.nn.backbone import Backbone as Backbone
    from miras_search.recipe import Recipe as Recipe
    from miras_search.size import Size as Size
    from miras_search.space import Space as Space
    from miras_search.variant import Variant as Variant

_PUBLIC = {
    "Backbone": "nn.backbone",
    "MemoryModule": "lit",
    "Recipe": "recipe",
    "Size": "size",
    "Space": "space",
    "State": "lower.call",
    "UserError": "errors",
    "Variant": "variant",
    "load": "checkpoint",
    "load_state": "checkpoint",
    "memorize": "layer",
    "recall": "layer",
    "save_state": "checkpoint",
    "surprise": "layer",
}
"""Where each public name lives: imported when it is first asked for, so that what needs no torch
does not wait for it."""

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)

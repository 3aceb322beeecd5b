"""Algorithms that are special cases of each other, and settings that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.algorithm.descent import Accumulating, Descent, Windowed
from miras_search.algorithm.gd import Gd
from miras_search.algorithm.momentum import Momentum
from miras_search.algorithm.multi_step import MultiStep
from miras_search.algorithm.muon import Muon
from miras_search.algorithm.nesterov import Nesterov
from miras_search.identities.base import identity

if TYPE_CHECKING:
    from miras_search.variant import Variant


@identity("momentum fixed at 0 is gd", algorithm={"kind": "momentum", "momentum": 0.0})
@identity("nesterov without momentum is gd", algorithm={"kind": "nesterov", "momentum": 0.0})
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    return _as_gd(variant) if isinstance(old, Momentum | Nesterov) and old.momentum == 0 else None


@identity("multi_step of 1 is gd", algorithm={"kind": "multi_step", "n": 1})
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    return _as_gd(variant) if isinstance(old, MultiStep) and old.n == 1 else None


@identity(
    "a window of 1 weighs nothing",
    algorithm={"kind": "gd", "importance": "learned"},
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if not (isinstance(old, Windowed) and old.window == 1 and old.importance != "data"):
        return None
    return variant.replace(algorithm=old.model_copy(update={"importance": "data"}))


@identity(
    "the mean over a chunk is the sum with a shorter step",
    algorithm={"kind": "gd", "average": True},
    chunk=4,
)
@identity(
    "a fixed step over a chunk is a shorter one",
    algorithm={"kind": "momentum", "average": True, "step": 0.5},
    chunk=4,
)
def _(variant: Variant) -> Variant | None:
    old, chunk = variant.algorithm, variant.anchor_every
    if not (isinstance(old, Descent) and old.average):
        return None
    if not isinstance(old.step, str):
        shorter = {"step": old.step / chunk}
    else:
        longest = old.max_step or old.limit(chunk)
        if longest > 2:  # a step begins at half of its interval, but at 1 at most
            return None
        shorter = {"max_step": longest / chunk}
    return variant.replace(algorithm=old.model_copy(update={"average": False, **shorter}))


@identity(
    "a sum of dampened gradients is one of shorter steps",
    algorithm={"kind": "momentum", "order": 2, "dampening": True},
)
@identity(
    "nesterov's too",
    algorithm={"kind": "nesterov", "dampening": True, "momentum": 0.9, "per": "channel"},
)
@identity(
    "without momentum there is nothing to dampen",
    algorithm={"kind": "muon", "dampening": True, "momentum": 0.0},
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if not (isinstance(old, Accumulating) and old.dampening):
        return None
    shorter = not isinstance(old, Muon) and isinstance(old.step, str)
    if old.momentum != 0 and (variant.retention.uses_step or not shorter):
        return None
    return variant.replace(algorithm=old.model_copy(update={"dampening": False}))


@identity(
    "a fixed step has no upper end",
    algorithm={"kind": "gd", "step": 0.1, "max_step": 0.5},
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if isinstance(old.step, str) or old.max_step is None:
        return None
    return variant.replace(algorithm=old.model_copy(update={"max_step": None}))


@identity(
    "a max_step that is the default need not be given",
    algorithm={"kind": "gd", "max_step": 0.5},
    chunk=4,
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if old.max_step is None or old.max_step != old.limit(variant.anchor_every):
        return None
    return variant.replace(algorithm=old.model_copy(update={"max_step": None}))


def _as_gd(variant: Variant) -> Variant:
    """The variant with gd, and the fields that gd has too."""
    old = variant.algorithm
    shared = {name: getattr(old, name) for name in Gd.model_fields if hasattr(old, name)}
    return variant.replace(algorithm=Gd(**shared))

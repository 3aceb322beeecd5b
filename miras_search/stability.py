"""Which variants can diverge at a step that their range allows: said, not refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miras_search.variant import Variant


def caution(variant: Variant) -> str | None:
    """Why hostile input may drive the memory to infinity, in one sentence; None if it cannot.

    Keys are taken to have unit length, as `qk_norm` gives them.
    """
    simplest = variant.canonical
    algorithm = simplest.algorithm
    if simplest.memory.grows or algorithm.bounded or getattr(algorithm, "clip", None) is not None:
        return None
    why = next(filter(None, (choice.steep for choice in simplest.axes().values())), None)
    if why is None:
        return None
    return f"{why}, so no step is stable for values of every size: clip bounds each write"

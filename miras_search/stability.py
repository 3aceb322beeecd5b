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
    algorithm, choices = simplest.algorithm, simplest.axes().values()
    if simplest.memory.grows:
        return None
    if why := next(filter(None, (choice.fragile for choice in choices)), None):
        return why
    if any(c.fixed and c.neutral == 1 and float(c.source) < c.low for c in variant.coefficients()):
        return "a deep memory that is forgotten so fast leaves its norm nothing to divide by"
    if algorithm.bounded or getattr(algorithm, "clip", None) is not None:
        return None
    if why := next(filter(None, (choice.steep for choice in choices)), None):
        return f"{why}, so no step is stable for values of every size: clip bounds each write"
    return None

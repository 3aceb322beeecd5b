"""What depends on more than one axis, and the choices beside the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.identities.base import identity
from miras_search.macro.base import Layer
from miras_search.macro.hybrid import Hybrid

if TYPE_CHECKING:
    from miras_search.variant import Variant


@identity(
    "rows of one entry have one column: per input is per head",
    memory="vector",
    retention={"kind": "l2", "per": "input", "retention": "learned"},
    algorithm={"kind": "gd", "per": "input", "step": "learned"},
)
def _(variant: Variant) -> Variant | None:
    changed = {
        axis: component.model_copy(update={"per": "head"})
        for axis, component in variant.axes().items()
        if getattr(component, "per", "head") == "input" and variant.memory.rows_of_one
    }
    return variant.replace(**changed) if changed else None


@identity(
    "a fixed coefficient is the same per head and per channel",
    retention={"kind": "l2", "retention": 0.9, "per": "channel"},
)
def _(variant: Variant) -> Variant | None:
    changed = {
        axis: component.model_copy(update={"per": "head"})
        for axis, component, coefficients in variant.coefficients_by_axis()
        if getattr(component, "per", "head") != "head"
        and any(c.per != "head" for c in coefficients)
        and all(c.fixed for c in coefficients if c.per != "head")
    }
    return variant.replace(**changed) if changed else None


@identity("a gradient that never looks at the memory is exact at any chunk", bias="dot", chunk=4)
def _(variant: Variant) -> Variant | None:
    idle = variant.chunk != 1 and variant.gradient_is_constant
    return variant.replace(chunk=1) if idle else None


@identity(
    "a memory that keeps pairs has no gradient: chunk, steps and initial weights do nothing",
    memory="attention",
    chunk=4,
    algorithm={"kind": "gd", "step": 0.1},
    initial_memory="zero",
)
def _(variant: Variant) -> Variant | None:
    if not variant.memory.grows:
        return None
    idle = type(variant.algorithm)()
    simple = variant.replace(algorithm=idle, chunk=1, initial_memory="learned")
    return simple if simple != variant else None


@identity("a hybrid of memories alone is lmm", macro={"kind": "hybrid", "pattern": "MM"})
def _(variant: Variant) -> Variant | None:
    macro = variant.macro
    if isinstance(macro, Layer):
        return None
    first, *others = dict.fromkeys(macro.layers(macro.depth))
    return None if others else variant.replace(macro=first)


@identity(
    "a pattern that repeats itself is the shorter one",
    macro={"kind": "hybrid", "pattern": "MAMA"},
)
def _(variant: Variant) -> Variant | None:
    macro = variant.macro
    if not isinstance(macro, Hybrid):
        return None
    # A text that repeats itself stands in its own double before the middle.
    period = (macro.pattern * 2).index(macro.pattern, 1)
    if period == len(macro.pattern):
        return None
    return variant.replace(macro=macro.model_copy(update={"pattern": macro.pattern[:period]}))


@identity("the qk_norm that the memory prefers is what auto means", qk_norm="l2")
def _(variant: Variant) -> Variant | None:
    preferred = variant.qk_norm == variant.memory.preferred_qk_norm
    return variant.replace(qk_norm="auto") if preferred else None


@identity(
    "gate_rank does nothing where no coefficient is projected per channel or input", gate_rank=8
)
def _(variant: Variant) -> Variant | None:
    default = type(variant).model_fields["gate_rank"].default
    if variant.gate_rank == default:
        return None
    projected = any(c.per != "head" and c.source == "data" for c in variant.coefficients())
    return None if projected else variant.replace(gate_rank=default)

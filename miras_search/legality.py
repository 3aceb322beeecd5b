"""Which combinations have a meaning: named rules that ask facts and answer in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miras_search.variant import Variant

Rule = Callable[["Variant"], "str | None"]
RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    """Register a rule: it returns why a variant has no meaning, or None."""
    RULES.append(check)
    return check


def reasons(variant: Variant) -> list[str]:
    """Every reason why this variant is not legal; empty if it is.

    Its simplest form is judged: what equals a legal variant is legal.
    """
    simplest = variant.canonical
    return [reason for check in RULES if (reason := check(simplest)) is not None]


@rule
def growing_memory_solves_l2(variant: Variant) -> str | None:
    """What is read from kept pairs is a closed-form solution, which only l2 has."""
    if variant.memory.grows and not variant.bias.quadratic:
        return (
            f"{variant.memory.kind} answers with the closed-form solution of l2 regression; "
            f"{variant.bias.kind} has none"
        )
    return None


@rule
def growing_memory_keeps_everything(variant: Variant) -> str | None:
    """Kept pairs do not decay."""
    if variant.memory.grows and not variant.retention.keeps_everything:
        return (
            f"{variant.memory.kind} keeps every pair, so there is nothing for "
            f"{variant.retention.kind} retention to decay"
        )
    return None


@rule
def growing_memory_has_no_optimiser(variant: Variant) -> str | None:
    """Without weights there are no gradients to accumulate."""
    if variant.memory.grows and len(variant.algorithm.slots) > 1:
        return (
            f"{variant.memory.kind} has no weights, so {variant.algorithm.kind} has no gradient "
            "to accumulate"
        )
    return None


@rule
def memory_can_leave_its_start(variant: Variant) -> str | None:
    """A zero of the gradient is a start that is never left."""
    from miras_search.memory.base import ParametricMemory

    memory = variant.memory
    stuck = isinstance(memory, ParametricMemory) and not memory.learns_from_zero
    if stuck and variant.initial_memory == "zero":
        return f"{memory.kind} started at zero has no gradient and never learns"
    return None

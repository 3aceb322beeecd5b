"""Which combinations have a meaning: named rules that ask facts and answer in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

from miras_search import registry

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


def census() -> dict[str, int]:
    """How many combinations of registered kinds there are, and how many of them are legal."""
    from miras_search.variant import Variant

    kinds = [[cls() for cls in registry.kinds(axis).values()] for axis in registry.AXES]
    found = [
        Variant(**dict(zip(registry.AXES, chosen, strict=True)))  # pyright: ignore[reportArgumentType]
        for chosen in product(*kinds)
    ]
    return {"all": len(found), "legal": sum(not reasons(variant) for variant in found)}


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
            f"{variant.memory.kind} keeps pairs as they are, so there is nothing for "
            f"{variant.retention.kind} retention to decay"
        )
    return None


@rule
def growing_memory_has_no_optimiser(variant: Variant) -> str | None:
    """Without weights there are no gradients to work on."""
    if variant.memory.grows and not variant.algorithm.plain:
        return (
            f"{variant.memory.kind} has no weights, so {variant.algorithm.kind} has no gradient "
            "to work on"
        )
    return None


@rule
def solver_needs_a_linear_map(variant: Variant) -> str | None:
    """Only least squares on W x has the closed form of implicit steps and of Newton's method."""
    if not variant.algorithm.solves or variant.memory.grows:
        return None
    if variant.memory.is_map and variant.bias.quadratic:
        return None
    return (
        f"{variant.algorithm.kind} has the closed form of least squares on W x, not one for "
        f"{variant.memory.kind} with {variant.bias.kind}"
    )


@rule
def solver_needs_a_linear_gate(variant: Variant) -> str | None:
    """A mirror map changes the problem that the closed form solves."""
    if variant.algorithm.solves and not variant.retention.linear:
        return (
            f"{variant.algorithm.kind} solves for the memory itself, and {variant.retention.kind} "
            "retention shows another one than it keeps"
        )
    return None


@rule
def curvature_is_shared_by_rows(variant: Variant) -> str | None:
    """One matrix H stands for all rows of the memory, and is symmetric."""
    if not variant.algorithm.accumulates:
        return None
    sides = {c.per for c in variant.retention.coefficients()} - {"head"}
    if not sides:
        return None
    return (
        f"{variant.algorithm.kind} keeps one curvature for all rows, so {variant.retention.kind} "
        f"retention is per head, not per {min(sides)}"
    )


@rule
def sums_have_no_step(variant: Variant) -> str | None:
    """What decays by a step of the memory says nothing of sums of pairs."""
    if variant.algorithm.accumulates and variant.retention.uses_step:
        return (
            f"{variant.algorithm.kind} keeps sums of pairs and takes no step from an old memory, "
            f"as {variant.retention.kind} retention does: its own regulariser is damping"
        )
    return None


@rule
def distribution_has_entries(variant: Variant) -> str | None:
    """A distribution over one entry is 1."""
    if variant.memory.rows_of_one and variant.retention.mixes_rows:
        return (
            f"{variant.retention.kind} retention keeps every row a distribution, and the rows of "
            f"{variant.memory.kind} have one entry"
        )
    return None


@rule
def window_has_one_point(variant: Variant) -> str | None:
    """The gradients of a window are summed, so they are taken at the same memory."""
    if variant.decays_first and variant.algorithm.window_length > 1:
        return (
            f"{variant.algorithm.kind} takes the gradients of a window at one memory, and "
            f"{variant.retention.kind} retention at another for each token"
        )
    return None


@rule
def features_are_wider_than_values(variant: Variant) -> str | None:
    """Polynomial features outnumber the channels of a head."""
    if variant.degree > 1 and variant.memory.check(3, 2) is not None:
        return (
            f"{variant.memory} needs keys as wide as values, and polynomial features of degree "
            f"{variant.degree} are wider"
        )
    return None


@rule
def memory_can_leave_its_start(variant: Variant) -> str | None:
    """A zero of the gradient is a start that is never left; where a mirror map shows something else
    than zero, all hidden units begin alike and stay so."""
    if variant.initial_memory == "zero" and not getattr(variant.memory, "learns_from_zero", True):
        return f"{variant.memory.kind} started at zero has a matrix without a gradient"
    return None

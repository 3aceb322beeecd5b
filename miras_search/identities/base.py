"""Equal functions under different names: what is merged, so that no function is trained twice.

An identity rewrites a variant to a simpler one that computes the same function. Each carries an
example, and the tests run both sides of it on the same input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miras_search.variant import Variant


@dataclass(frozen=True)
class Identity:
    """`rewrite(variant)` is an equal, simpler variant, or None where it does not apply."""

    statement: str
    rewrite: Callable[[Variant], Variant | None]
    example: dict[str, Any]
    """A variant (as `Variant.from_dict` reads it) to which it applies."""


IDENTITIES: list[Identity] = []


def identity(
    statement: str, **example: Any
) -> Callable[[Callable[[Variant], Variant | None]], Callable[[Variant], Variant | None]]:
    """Register a rewrite; `example` names the fields of a variant to which it applies."""
    base = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}

    def enter(
        rewrite: Callable[[Variant], Variant | None],
    ) -> Callable[[Variant], Variant | None]:
        IDENTITIES.append(Identity(statement, rewrite, base | example))
        return rewrite

    return enter


@lru_cache(maxsize=4096)
def simplify(variant: Variant) -> Variant:
    """Apply identities until none changes anything."""
    changed = True
    while changed:
        changed = False
        for known in IDENTITIES:
            simpler = known.rewrite(variant)
            if simpler is not None:
                variant, changed = simpler, True
    return variant

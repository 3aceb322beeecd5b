"""Memories that are special cases of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.identities.base import identity
from miras_search.memory.matrix import Matrix
from miras_search.memory.mlp import Mlp

if TYPE_CHECKING:
    from miras_search.variant import Variant


@identity(
    "an mlp of depth 1 has no hidden layer: its expansion and activation do nothing",
    memory={"kind": "mlp", "depth": 1, "expansion": 2, "activation": "relu"},
)
def _(variant: Variant) -> Variant | None:
    memory = variant.memory
    if not (isinstance(memory, Mlp) and memory.depth == 1):
        return None
    simple = Mlp(depth=1, form=memory.form)
    return variant.replace(memory=simple) if memory != simple else None


@identity("a plain mlp of depth 1 is a matrix", memory={"kind": "mlp", "depth": 1, "form": "plain"})
def _(variant: Variant) -> Variant | None:
    memory = variant.memory
    is_matrix = isinstance(memory, Mlp) and memory.depth == 1 and memory.form == "plain"
    return variant.replace(memory=Matrix()) if is_matrix else None

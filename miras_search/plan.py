"""What a variant costs and how it will be computed, before anything trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from miras_search.layer import Lowering
    from miras_search.size import Size
    from miras_search.tasks.base import Readout
    from miras_search.variant import Variant


class Choice(NamedTuple):
    """A lowering and the reason for it."""

    name: Literal["reference", "chunked", "compiled", "recomputed"]
    why: str


@dataclass(frozen=True)
class Plan:
    """The cost of a variant at a size; everything but the reason is measured, not derived."""

    lowering: str
    why: str
    parameters: int
    """Trainable parameters of the whole model."""
    state_bytes: int
    """Bytes one sequence of `length` tokens leaves in all layers, as float32."""
    flops_per_token: int
    """Floating-point operations of the forward pass per token (matrix products only)."""
    length: int


def choose_lowering(variant: Variant, asked: Lowering = "auto") -> Choice:
    """How a variant is computed: as is asked for where that is of use to it, else the cheapest
    lowering that is exact for what it means, as `make bench` finds it on a CPU."""
    if asked in ("reference", "chunked"):
        return Choice(asked, "it was asked for")
    if variant.memory.grows:
        return Choice("chunked", "all tokens attend at once through scaled_dot_product_attention")
    solved = variant.affine and variant.has_causal_coefficients
    if not solved:
        if asked == "recomputed":
            return Choice(asked, "the backward pass computes every chunk again, for less memory")
        if asked == "compiled" and (variant.chunk > 1 or variant.has_causal_coefficients):
            return Choice(asked, "whole chunks go through torch.compile")
    if variant.gradient_is_constant:
        return Choice("chunked", "the gradient never looks at the memory: any chunk is exact")
    if solved:
        return Choice("chunked", "the gradients of a tile of tokens solve one triangular system")
    if variant.chunk > 1:
        return Choice(
            "chunked", f"{variant.chunk} tokens share an anchor: one backward pass for all of them"
        )
    if variant.has_causal_coefficients:
        return Choice("chunked", "every token is an anchor, and reads the state that it leaves")
    return Choice("reference", "every token moves the weights that the next gradient is taken at")


@lru_cache(maxsize=4096)
def plan(
    variant: Variant,
    size: Size,
    vocabulary: int,
    length: int,
    readout: Readout = "each",
    lowering: Lowering = "auto",
) -> Plan:
    """Build the model, run parts of it, and count. Operations are those of "auto", whatever is
    asked for.

    Raises:
        ValueError: the width cannot be split as the variant wants.
    """
    from miras_search import cost

    found = cost.of_model(variant, size, vocabulary, length, readout)
    name, why = choose_lowering(variant, lowering)
    return Plan(
        lowering=name,
        why=why,
        parameters=found.parameters,
        state_bytes=found.state_bytes,
        flops_per_token=found.flops // length,
        length=length,
    )

"""What a variant costs and how it will be computed, before anything trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from miras_search.recipe import Size
    from miras_search.variant import Variant

SMALL = 2**24
"""Parameters up to which a model is run to be counted, and not only traced."""
TILE = 64
"""Tokens after which a memory that is linear in its writes does the same again."""


class Choice(NamedTuple):
    """A lowering and the reason for it."""

    name: Literal["reference", "chunked"]
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


def choose_lowering(variant: Variant) -> Choice:
    """The cheapest lowering that is exact for what this variant means."""
    if variant.memory.grows:
        return Choice("chunked", "all tokens attend at once through scaled_dot_product_attention")
    if variant.gradient_is_constant:
        return Choice("chunked", "the gradient never looks at the memory: any chunk is exact")
    if variant.affine:
        return Choice("chunked", "the gradients of a tile of tokens solve one triangular system")
    if variant.chunk > 1:
        return Choice(
            "chunked", f"{variant.chunk} tokens share an anchor: one backward pass for all of them"
        )
    return Choice("reference", "every token moves the weights that the next gradient is taken at")


@lru_cache(maxsize=4096)
def plan(variant: Variant, size: Size, vocabulary: int, length: int) -> Plan:
    """Build the model without memory on the meta device, run one block of each sort, and count.

    Raises:
        ValueError: the width cannot be split as the variant wants.
    """
    import torch
    from torch import nn

    from miras_search.nn.backbone import Backbone, Block

    with torch.device("meta"):
        model = Backbone(variant, size, vocabulary)
    parameters = sum(p.numel() for p in model.parameters())
    layers = variant.macro.layers(variant, size.layers)
    blocks = {}
    with torch.random.fork_rng(devices=[]):
        for layer in set(layers):
            # Tracing takes ten times as long for each operation, but a growing memory has few of
            # them, and attention on the CPU has no formula.
            traced = layer.memory.grows or parameters > SMALL
            with torch.device("meta" if traced else "cpu"):
                blocks[layer] = Block(layer, size)
    with torch.device("meta"):
        head = nn.Linear(size.width, vocabulary, bias=False)
    costs = {layer: _cost(block, layer, size.width, length) for layer, block in blocks.items()}
    at_head, _ = _run(head, size.width, 1)
    lowering, why = choose_lowering(variant)
    return Plan(
        lowering=lowering,
        why=why,
        parameters=parameters,
        state_bytes=sum(costs[layer].state_bytes for layer in layers),
        flops_per_token=at_head + sum(costs[layer].flops for layer in layers) // length,
        length=length,
    )


class _Cost(NamedTuple):
    flops: int
    state_bytes: int


def _cost(block: nn.Module, layer: Variant, width: int, length: int) -> _Cost:
    """What a block costs over `length` tokens: the work repeats after a period, and its
    repetitions are not run."""
    period = _period(layer)
    again = 0 if period is None else (length - layer.algorithm.window_length) // period - 1
    if period is None or again < 1:
        return _run(block, width, length)
    short = length - again * period
    once, twice = (_run(block, width, n) for n in (short, short + period))
    return _Cost(once.flops + again * (twice.flops - once.flops), once.state_bytes)


def _period(layer: Variant) -> int | None:
    """Tokens after which a memory does the same again; never, where it grows."""
    if layer.memory.grows:
        return None
    if choose_lowering(layer).name == "reference":
        return 1
    return TILE if layer.affine or layer.gradient_is_constant else layer.anchor_every


def _run(module: nn.Module, width: int, tokens: int) -> _Cost:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        """torch's own formulas; its FlopCounterMode does the same and takes ten times as long."""

        flops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                self.flops += formula(*args, **(kwargs or {}), out_val=out)
            return out

    x = torch.zeros(1, tokens, width, device=next(module.parameters()).device)
    with torch.no_grad(), Counter() as counter:
        found = module(x)
    return _Cost(counter.flops, found[1].nbytes if isinstance(found, tuple) else 0)

"""What a model costs: its parts are run on a few tokens, and what they do is counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from miras_search.lower.attend import BLOCK
from miras_search.lower.contract import TILE
from miras_search.nn.backbone import Backbone, Block, SwiGLU
from miras_search.nn.decoder import head
from miras_search.nn.state import nbytes
from miras_search.plan import choose_lowering

if TYPE_CHECKING:
    from miras_search.macro.base import Layer
    from miras_search.size import Size
    from miras_search.tasks.base import Readout
    from miras_search.variant import Variant

SMALL = 2**24
"""Parameters up to which a model is run to be counted, and not only traced."""


class Cost(NamedTuple):
    """Of a sequence of some tokens."""

    flops: int
    """Floating-point operations of the forward pass (matrix products only)."""
    state_bytes: int
    """Bytes it leaves in the memory, as float32."""
    parameters: int
    """Trainable parameters."""


def of_model(
    variant: Variant, size: Size, vocabulary: int, length: int, readout: Readout = "each"
) -> Cost:
    """A whole model over `length` tokens, of one block of each sort.

    Raises:
        ValueError: the width cannot be split as the variant wants.
    """
    with torch.device("meta"):
        top = head(size.width, vocabulary, readout)
    counted = parameters(variant, size, vocabulary, readout)
    layers = variant.macro.layers(size.layers)
    costs = {}
    for layer in set(layers):
        block = _block(layer, variant, size, counted)
        costs[layer] = _of_block(block, layer, variant, size.width, length)
    return Cost(
        flops=_of_run(top, size.width, length).flops + sum(costs[x].flops for x in layers),
        state_bytes=sum(costs[layer].state_bytes for layer in layers),
        parameters=counted,
    )


def parameters(variant: Variant, size: Size, vocabulary: int, readout: Readout = "each") -> int:
    """Trainable parameters of a whole model, which is not given any memory.

    Raises:
        ValueError: the width cannot be split as the variant wants.
    """
    with torch.device("meta"):
        model = Backbone(variant, size, vocabulary, readout=readout)
    return sum(p.numel() for p in model.parameters())


def state_bytes(
    variant: Variant, size: Size, vocabulary: int, length: int, readout: Readout = "each"
) -> int:
    """What `of_model` says of the state, in half the time.

    Raises:
        ValueError: the width cannot be split as the variant wants.
    """
    counted = parameters(variant, size, vocabulary, readout)
    layers = variant.macro.layers(size.layers)
    held = {}
    for layer in set(layers):
        period, again = _repetitions(layer, variant, length)
        block = _block(layer, variant, size, counted)
        held[layer] = _of_run(block, size.width, length - again * period).state_bytes
    return sum(held[layer] for layer in layers)


def of_channel(width: int) -> Cost:
    """One channel of the SwiGLU of one layer, over one token: each costs the same."""
    return _of_run(SwiGLU(width, 1), width, 1)


def _block(layer: Layer, variant: Variant, size: Size, counted: int) -> Block:
    """One layer of a model of so many parameters."""
    # Tracing takes ten times as long for each operation, but a growing memory has few of them,
    # and attention on the CPU has no formula.
    traced = variant.memory.grows or layer.span > 1 or counted > SMALL
    with torch.random.fork_rng(devices=[]), torch.device("meta" if traced else "cpu"):
        return Block(layer, variant, size)


def _of_block(block: Block, layer: Layer, variant: Variant, width: int, length: int) -> Cost:
    """The work repeats after a period, and its repetitions are not run."""
    period, again = _repetitions(layer, variant, length)
    once = _of_run(block, width, length - again * period)
    if not again:
        return once
    twice = _of_run(block, width, length - (again - 1) * period)
    return once._replace(flops=once.flops + again * (twice.flops - once.flops))


def _repetitions(layer: Layer, variant: Variant, length: int) -> tuple[int, int]:
    """A period of tokens, and how many of them need not be run."""
    period = _period(layer, variant)
    if period is None:
        return length, 0
    return period, max(0, (length - variant.algorithm.window_length) // period - 1)


def _period(layer: Layer, variant: Variant) -> int | None:
    """Tokens after which a layer does the same again; none, where it grows."""
    if variant.memory.grows:
        return None
    own = TILE if variant.affine or variant.gradient_is_constant else variant.anchor_every
    if choose_lowering(variant).name == "reference":
        own = 1
    return own if layer.span == 1 else math.lcm(own, layer.span, BLOCK)


def _of_run(module: nn.Module, width: int, tokens: int) -> Cost:
    """A module that takes `[1, tokens, width]`, and may return its state second."""
    parameters = list(module.parameters())
    with torch.no_grad(), _Counter() as counter:
        found = module(torch.zeros(1, tokens, width, device=parameters[0].device))
    held = nbytes(found[1]) if isinstance(found, tuple) else 0
    return Cost(counter.flops, held, sum(p.numel() for p in parameters))


class _Counter(TorchDispatchMode):
    """Operations by torch's own formulas. Its FlopCounterMode finds the same in several times the
    time, because it tries to take apart every operation that has no formula."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

"""The layers that are compared, all of the same width: each a call that takes a training step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from miras_search import registry
from miras_search.layer import Lowering
from miras_search.nn.backbone import Backbone
from miras_search.nn.mixer import Mixer
from miras_search.plan import Plan, choose_lowering, plan
from miras_search.size import Size
from miras_search.testing import variant_with
from miras_search.testing.cases import variants
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH, HEADS = 256, 4
SMALL_WIDTH = 64
"""Of the comparison of all kinds."""
MOST_WEIGHTS = 400_000
"""Of a head's memory."""
DEEP = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
"""Titans: a perceptron of two matrices, hidden four times as wide, gates per head."""
DELTA = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
"""The gated delta rule, exact at every token."""
ATTENTION = {"memory": "attention", "bias": "l2", "retention": "none", "algorithm": "gd"}


def mixer(axes: dict[str, str], chunk: int = 1, lowering: Lowering = "auto") -> Mixer:
    """One layer of ours."""
    torch.manual_seed(0)
    return Mixer(Variant.from_dict(axes | {"chunk": chunk, "heads": HEADS}), WIDTH, lowering)


def titans(chunk: int, depth: int = 2, momentum: bool = True) -> nn.Module:
    """The memory of titans-pytorch, of so many matrices, with a gradient and an update every
    `chunk` tokens."""
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    return NeuralMemory(
        dim=WIDTH,
        chunk_size=chunk,
        batch_size=chunk,
        dim_head=WIDTH // HEADS,
        heads=HEADS,
        momentum=momentum,
        default_model_kwargs={"depth": depth, "expansion_factor": 4.0},
    )


def plan_of(axes: dict[str, str], chunk: int, length: int) -> Plan:
    """What one layer costs."""
    variant = Variant.from_dict(axes | {"chunk": chunk, "heads": HEADS})
    return plan(variant, Size(width=WIDTH, layers=1, mlp=0.0), 1, length)


PRODUCT = 2048
PRODUCT_FLOPS = 2 * PRODUCT**3
"""Operations of one `product`."""


def product() -> Callable[[], object]:
    """A large matrix product, which shows what the machine can do."""
    x = torch.ones(PRODUCT, PRODUCT)
    return lambda: x @ x


def kinds(chunk: int) -> Iterator[tuple[str, str, Mixer, Mixer]]:
    """Every registered kind beside its companions at a width of 64, but for those that keep pairs
    and have no token loop: its name, that of the lowering that was not chosen for it, and its layer
    as it runs and by the other."""
    classes = (cls for axis in registry.AXES for cls in registry.kinds(axis).values())
    found = (variant_with(cls(), chunk=chunk, heads=HEADS) for cls in classes)
    for v in dict.fromkeys(v for v in found if v is not None and not v.memory.grows):
        other: Lowering = "chunked" if choose_lowering(v).name == "reference" else "reference"
        told = "token loop" if other == "reference" else other
        yield str(v), told, Mixer(v, SMALL_WIDTH), Mixer(v, SMALL_WIDTH, other)


def settings(chunk: int) -> Iterator[tuple[str, str, Mixer, Mixer]]:
    """The same of every setting of every kind, but for memories of which the token loop, which
    keeps one for each token, would need tens of gigabytes."""
    for v in variants(chunk=chunk, heads=HEADS):
        if v.memory.grows or choose_lowering(v).name == "reference":
            continue
        shapes = v.memory.matrices(SMALL_WIDTH // HEADS, SMALL_WIDTH // HEADS).values()
        if sum(rows * columns for rows, columns in shapes) <= MOST_WEIGHTS:
            yield str(v), "token loop", Mixer(v, SMALL_WIDTH), Mixer(v, SMALL_WIDTH, "reference")


def training(layer: nn.Module, batch: int, length: int, width: int = WIDTH) -> Callable[[], None]:
    """Forward and backward of a layer that returns its output first."""
    torch.manual_seed(1)
    x = torch.randn(batch, length, width)

    def step() -> None:
        layer.zero_grad()
        y, *_ = layer(x)
        y.square().mean().backward()

    return step


def reading(layer: Mixer, length: int, piece: int = 1024) -> Callable[[], None]:
    """A sequence read in pieces without a gradient."""
    torch.manual_seed(1)
    x = torch.randn(1, length, WIDTH)

    @torch.no_grad()
    def step() -> None:
        state = None
        for part in x.split(piece, dim=1):
            _, state = layer(part, state)

    return step


def endless_text(axes: dict[str, str], chunk: int, tokens: int, piece: int = 4096) -> Iterator[int]:
    """A small byte model that reads one text of random bytes: tokens so far, piece after piece."""
    torch.manual_seed(0)
    variant = Variant.from_dict(axes | {"chunk": chunk, "heads": HEADS})
    model = Backbone(variant, Size(width=SMALL_WIDTH, layers=2, mlp=2.0), vocabulary=256)
    pieces = (torch.randint(256, (1, piece)) for _ in range(-(-tokens // piece)))
    for logits, state in model.stream(pieces):
        if not logits[:, -1].isfinite().all():
            raise RuntimeError(f"not a number after {state[0]['memory'].position} tokens")
        yield state[0]["memory"].position


LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{f"anchored mlp, chunk {c}": partial(mixer, DEEP, c) for c in (16, 32, 64)},
    **{f"compiled mlp, chunk {c}": partial(mixer, DEEP, c, "compiled") for c in (16, 32, 64)},
    **{f"recomputed mlp, chunk {c}": partial(mixer, DEEP, c, "recomputed") for c in (16, 32, 64)},
    **{f"titans-pytorch, chunk {c}": partial(titans, c) for c in (16, 32, 64)},
    "delta rule": partial(mixer, DELTA),
    "titans-pytorch, a matrix, chunk 64": partial(titans, 64, depth=1, momentum=False),
    "attention": partial(mixer, ATTENTION),
}
"""Every layer by the name it has in a row."""

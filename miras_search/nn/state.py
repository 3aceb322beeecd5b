"""What the layers of a model carry from one call to the next: named parts, each a `State`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from miras_search.lower.call import State

if TYPE_CHECKING:
    from torch import Tensor

LayerState = dict[str, State]
"""The parts of a layer by name: "memory", "conv", "attention/pairs", ..."""

ModelState = tuple[LayerState, ...]
"""The state of each layer, the first first."""


def require(state: object) -> None:
    """Refuse what is no state of a model.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(state, tuple) or not state:
        told = "an empty tuple" if isinstance(state, tuple) else f"a {type(state).__name__}"
        raise ValueError(f"state is {told}: expected what a model returns after its logits")
    for i, layer in enumerate(state):
        if not isinstance(layer, Mapping) or not all(isinstance(x, State) for x in layer.values()):
            told = f"layer {i} of the state is no mapping from names to `State`"
            raise ValueError(f"{told}: expected what a model returns after its logits")


def nbytes(state: LayerState) -> int:
    """Bytes held, all parts together."""
    return sum(part.nbytes for part in state.values())


def under(name: str, state: LayerState) -> LayerState:
    """The state of a module inside a layer, under a name of its own."""
    return {f"{name}/{part}": held for part, held in state.items()}


def inside(name: str, state: LayerState | None) -> LayerState | None:
    """What `under` put there; None, the start of a sequence, as it is."""
    if state is None:
        return None
    first = f"{name}/"
    return {part.removeprefix(first): x for part, x in state.items() if part.startswith(first)}


def part(state: LayerState | None, name: str) -> State | None:
    """One part; None at the start of a sequence.

    Raises:
        ValueError: the state is of another sort of layer.
    """
    if state is None:
        return None
    if name not in state:
        raise ValueError(f"state holds {sorted(state)}: expected '{name}' among them")
    return state[name]


def check(state: State, like: Tensor, **shapes: tuple[int, ...]) -> None:
    """Refuse a part that does not hold tensors of these shapes, or numbers that are longer than
    those that go on, unless autocast makes them alike.

    Raises:
        ValueError: it is of another model or batch.
    """
    found = {name: tuple(x.shape) for name, x in state.tensors.items()}
    if found != shapes:
        raise ValueError(f"state holds {found}: expected {shapes}")
    for name, x in state.tensors.items():
        longer = torch.promote_types(x.dtype, like.dtype) != like.dtype
        if longer and not torch.is_autocast_enabled(like.device.type):
            told = f"'{name}' of the state is {x.dtype}"
            raise ValueError(f"{told}: expected that of the model, {like.dtype}")

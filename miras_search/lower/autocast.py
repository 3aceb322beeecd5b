"""Operations that keep the dtype of what they are given, whatever is around them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


def no_autocast(device: str) -> AbstractContextManager:
    """Autocast is off inside; the meta device knows none."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def as_given(backward: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """The backward pass of a function, outside of autocast."""

    @wraps(backward)
    def call(ctx: C, *gradients: P.args, **none: P.kwargs) -> R:
        device = next((g.device.type for g in gradients if isinstance(g, Tensor)), "cpu")
        with no_autocast(device):
            return backward(ctx, *gradients, **none)

    return call

"""Functions with a backward pass of their own, and operations that autocast leaves alone."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


def no_autocast(device: str) -> AbstractContextManager:
    """What is inside keeps the dtype that it is given; the meta device knows nothing else."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class Function(torch.autograd.Function):
    """One that torch.func can map and differentiate; its backward pass is outside of autocast."""

    generate_vmap_rule = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # torch asks for the signature at every call, and to find it takes 0.1 ms.
        cls.forward.__signature__ = inspect.signature(cls.forward)  # pyright: ignore
        cls.backward = staticmethod(_outside_autocast(cls.backward))


def _outside_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(backward)
    def call(ctx: Any, *gradients: Tensor | None) -> Any:
        device = next((g.device.type for g in gradients if g is not None), "cpu")
        with no_autocast(device):
            return backward(ctx, *gradients)

    return call

"""A function that is computed again in the backward pass: a third more work, and nothing kept of
what it computes on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def recomputed(function: Callable[P, R]) -> Callable[P, R]:
    """The same function of the tensors in its arguments, however they and its results are nested;
    results are tensors alone.

    `torch.utils.checkpoint` cannot do it: torch.func refuses the hooks that it sets.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, arguments = pytree.tree_flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        results: list[Any] = []

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            now = list(leaves)
            for i, x in zip(places, tensors, strict=True):
                now[i] = x
            again, named = pytree.tree_unflatten(now, arguments)
            found, layout = pytree.tree_flatten(function(*again, **named))  # pyright: ignore
            results[:] = [layout]
            return tuple(found)

        found = _Again.apply(run, *(leaves[i] for i in places))
        for i in places:  # what `run` needs is saved for the backward pass, and freed with it
            leaves[i] = None
        return pytree.tree_unflatten(found, results[0])  # pyright: ignore

    return call


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.autocast = _autocast(tensors[0].device.type)
        ctx.save_for_backward(*tensors)
        return run(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needed = ctx.needs_input_grad[1:]
        # Of the gradient there shall be a gradient if grad mode is on.
        derive = torch.is_grad_enabled()
        tensors = [
            (x.view_as(x) if derive else x.detach().requires_grad_()) if need else x
            for x, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with ctx.autocast:
            with torch.enable_grad():
                found = ctx.run(*tensors)
            outputs = [(x, g) for x, g in zip(found, gradients, strict=True) if x.requires_grad]
            if not outputs:
                return (None, *(None for _ in needed))
            ends, starts = zip(*outputs, strict=True)
            inputs = [x for x, need in zip(tensors, needed, strict=True) if need]
            found = torch.autograd.grad(
                ends, inputs, starts, allow_unused=True, create_graph=derive
            )
            by_input = iter(found)
        return (None, *(next(by_input) if need else None for need in needed))


def _autocast(device: str) -> AbstractContextManager:
    """Autocast as it is now: the backward pass may run under another."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, enabled)

"""A function that is computed again in the backward pass: a third more work, and nothing kept of
what it computes on the way."""

from __future__ import annotations

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
        ctx.save_for_backward(*tensors)
        return run(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needed = ctx.needs_input_grad[1:]
        tensors = [
            x.detach().requires_grad_(need)
            for x, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            found = ctx.run(*tensors)
        outputs = [(x, g) for x, g in zip(found, gradients, strict=True) if x.requires_grad]
        inputs = [x for x in tensors if x.requires_grad]
        ends, starts = zip(*outputs, strict=True)
        by_input = iter(torch.autograd.grad(ends, inputs, starts, allow_unused=True))
        return (None, *(next(by_input) if need else None for need in needed))

"""Sums of products in one buffer, where autograd would copy it for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from miras_search.lower.function import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

X = TypeVar("X")

FEW = 2**16
"""Entries of a buffer up to which autograd may copy it: that is sooner done than Python called."""


def sum_of_products(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of a @ b over pairs, a `[..., m, p]` and b `[..., p, n]`."""
    factors = [x.flatten(0, -3) for pair in pairs for x in pair]
    entries = len(factors[0]) * factors[0].shape[1] * factors[1].shape[2]
    run: Any = _Products.apply if entries > FEW else _Products.forward
    found: Tensor = run(*factors)
    return found.unflatten(0, pairs[0][0].shape[:-2])


def moved(
    carry: Tensor, z: Sequence[Tensor], u: Sequence[Tensor], h: Sequence[Tensor]
) -> list[Tensor]:
    """What is carried after a tile, `[..., out, in]` each: sum_j carry[m, j] z[j] + u[m]^T h[m].

    carry `[..., n, n, 1 or out, 1 or in]`, of which carry[m, 0] is zero for m > 0; z n tensors
    `[..., out, in]`; u `[..., C, out]` and h `[..., C, in]` n of each, or one that serves all.
    """
    lead = carry.shape[:-4]
    tensors = (x.flatten(0, len(lead) - 1) for x in (carry, *z, *u, *h))
    run: Any = _Moved.apply if z[0].numel() > FEW else _Moved.forward
    found: Sequence[Tensor] = run(len(z), len(u), *tensors)
    return [x.unflatten(0, lead) for x in found]


def sources(m: int, n: int) -> range:
    """Which of the carried tensors number m is made of: none looks at the state but itself."""
    return range(1 if m else 0, n)


class _Products(Function):
    @staticmethod
    def forward(*factors: Tensor) -> Tensor:
        (a, b), *others = _pairs(factors)
        found = torch.bmm(a, b)
        for a, b in others:
            found = _plus(found, a, b)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found, needs = [], _pairs(ctx.needs_input_grad)
        for (a, b), (of_a, of_b) in zip(_pairs(ctx.saved_tensors), needs, strict=True):
            found += [torch.bmm(g, b.mT) if of_a else None, torch.bmm(a.mT, g) if of_b else None]
        return tuple(found)


class _Moved(Function):
    @staticmethod
    def forward(n: int, lefts: int, carry: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        z, u, h = others[:n], others[n : n + lefts], others[n + lefts :]
        found = []
        for m in range(n):
            x = None
            for j in sources(m, n):
                x = _plus_weighted(x, carry[:, m, j], z[j])
            found.append(_plus(x, u[m % len(u)].mT, h[m % len(h)]))
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.n, ctx.lefts, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        n, lefts = ctx.n, ctx.lefts
        carry, *others = ctx.saved_tensors
        z, u, h = others[:n], others[n : n + lefts], others[n + lefts :]
        of_z: list[Tensor | None] = [None] * n
        of_u: list[Tensor | None] = [None] * len(u)
        of_h: list[Tensor | None] = [None] * len(h)
        none = torch.zeros_like(carry[:, 0, 0])
        of_carry = [[none] * n for _ in range(n)]
        for m, g in enumerate(gradients):
            if g is None:
                continue
            for j in sources(m, n):
                of_carry[m][j] = (g * z[j]).sum_to_size(none.shape)
                of_z[j] = _plus_weighted(of_z[j], carry[:, m, j], g)
            left, right = m % len(u), m % len(h)
            of_u[left] = _plus(of_u[left], h[right], g.mT)
            of_h[right] = _plus(of_h[right], u[left], g)
        both = torch.stack([torch.stack(row, 1) for row in of_carry], 1)
        return (None, None, both, *of_z, *of_u, *of_h)


def _plus(old: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """old + a @ b, in place of `old` where nothing looks on."""
    if old is None:
        return torch.bmm(a, b)
    if torch.compiler.is_compiling():
        return old + torch.bmm(a, b)  # a sum that is compiled into what is around it
    return torch.baddbmm(old, a, b, out=None if _watched() else old)


def _plus_weighted(old: Tensor | None, c: Tensor, x: Tensor) -> Tensor:
    """old + c x, in place of `old` where nothing looks on."""
    if old is None:
        return c * x
    return torch.addcmul(old, c, x, out=None if _watched() else old)


def _watched() -> bool:
    """Whether what happens here is compiled, differentiated or transformed by torch.func."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return True
    return torch._C._are_functorch_transforms_active()  # pyright: ignore


def _pairs(x: Sequence[X]) -> list[tuple[X, X]]:
    return [*zip(x[::2], x[1::2], strict=True)]

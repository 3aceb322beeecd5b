"""Soft thresholding of one token after another, with a backward pass of its own: a few operations
a token, where automatic differentiation takes a dozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from miras_search.lower.function import Function

if TYPE_CHECKING:
    from torch import Tensor


def shrink(state: Tensor, pushes: Tensor, retain: Tensor, by: Tensor) -> Tensor:
    """W_t = S_{by_t}(retain_t W_{t-1} + push_t), S_c(x) = sign(x) max(|x| - c, 0), for all tokens.

    State `[B, H, out, in]`, pushes and result `[B, H, C, out, in]`; retain and by broadcast to
    them, or are scalars.
    """
    retain, by = (x.expand_as(pushes[..., :1, :1]) if x.dim() == 0 else x for x in (retain, by))
    return _Shrink.apply(state, pushes, retain, by)  # pyright: ignore[reportReturnType]


class _Shrink(Function):
    @staticmethod
    def forward(state: Tensor, pushes: Tensor, retain: Tensor, by: Tensor) -> Tensor:
        states = []
        bounds = zip((-by).unbind(2), by.unbind(2), strict=True)
        for push, a, (low, high) in zip(pushes.unbind(2), retain.unbind(2), bounds, strict=True):
            moved = torch.addcmul(push, a, state)
            state = moved - moved.clamp(low, high)
            states.append(state)
        return torch.stack(states, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        state, _, retain, by = inputs
        ctx.save_for_backward(state, retain, by, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        state, retain, by, states = ctx.saved_tensors
        sign = states.sign()
        passed, later = [], torch.zeros_like(state)
        tokens = zip(*(x.unbind(2) for x in (gradient, sign.abs(), retain)), strict=True)
        for g, alive, a in reversed([*tokens]):
            passed.append((later + g) * alive)
            later = a * passed[-1]
        pushed = torch.stack(passed[::-1], 2)
        before = torch.cat([state[:, :, None], states[:, :, :-1]], dim=2)
        of_retain = (pushed * before).sum_to_size(retain.shape)
        return later, pushed, of_retain, -(sign * pushed).sum_to_size(by.shape)

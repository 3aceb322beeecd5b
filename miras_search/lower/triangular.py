"""The inverse of unit lower triangular matrices, many small ones at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from miras_search.lower.function import Function

if TYPE_CHECKING:
    from torch import Tensor


def inverse(below: Tensor) -> Tensor:
    """(I - L)^-1 for strictly lower triangular L `[..., C, C]`.

    Neighbouring diagonal blocks are joined until one is left. As stable as substitution (no power
    of L is formed), and made of batched products, where `solve_triangular` takes one system after
    another.
    """
    return _Inverse.apply(below)  # pyright: ignore[reportReturnType]


class _Inverse(Function):
    @staticmethod
    def forward(below: Tensor) -> Tensor:
        size = below.shape[-1]
        padding = (1 << (size - 1).bit_length()) - size
        below = functional.pad(below, (0, padding, 0, padding))
        blocks = below.new_ones(*below.shape[:-2], below.shape[-1], 1, 1)
        while (s := blocks.shape[-1]) < below.shape[-1]:
            tiled = below.unflatten(-1, (-1, 2, s)).unflatten(-4, (-1, 2, s))
            # The block below the diagonal of each pair: [..., s, s, pairs].
            corner = tiled[..., :, 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
            first, second = blocks.unflatten(-3, (-1, 2)).unbind(-3)
            across = second @ corner @ first
            blocks = torch.cat(
                [functional.pad(first, (0, s)), torch.cat([across, second], dim=-1)], dim=-2
            )
        return blocks[..., 0, :size, :size].contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse,) = ctx.saved_tensors
        return (inverse.mT @ gradient @ inverse.mT).tril(-1)

"""Rotary positions: vectors turned by the place of their token, so that products know distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BASE = 10_000.0
"""The slowest of the rotations turns once in 2 pi times this many tokens."""


def rotate(x: Tensor, start: int, dim: int = -2) -> Tensor:
    """Rotary position embedding (RoPE, Su et al. 2104.09864) of vectors x `[..., K]` whose tokens,
    along `dim`, stand at start, start + 1, ...: channel i turns with channel i + K // 2.

    A product of two rotated vectors depends on the distance of their tokens alone. An odd last
    channel stays as it is.
    """
    dim %= x.ndim
    tokens, half = x.shape[dim], x.shape[-1] // 2
    # In double precision, since angles grow with the position; not every device has it.
    place = torch.arange(start, start + tokens, dtype=torch.float64)
    angle = place[:, None] * BASE ** -(torch.arange(half, dtype=torch.float64) / max(half, 1))
    angle = angle.view(tokens, *[1] * (x.ndim - 2 - dim), half)
    cos, sin = (f(angle).to(x.device, x.dtype) for f in (torch.cos, torch.sin))
    a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)

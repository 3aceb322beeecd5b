"""The gradients of a chunk at one anchor: what memory and bias make of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.func import vjp

from miras_search.memory.base import ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from miras_search.lower.call import Gates
    from miras_search.variant import Variant

TINY = 1e-30
"""Under the root of a squared length, whose derivative at zero is then zero."""


def writes(
    variant: Variant,
    anchor: Mapping[str, Tensor],
    k: Tensor,
    v: Tensor,
    gates: Gates,
    decay: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The factors of each token's gradient, u `[B, H, C, out]` and h `[B, H, C, in]` by matrix.

    The gradient of the bias at token i with respect to matrix W is u_i h_i^T: h is what enters
    the map, and u what comes back to a zero tap on what leaves it. One backward pass through the
    memory at the weights `anchor` serves the whole chunk, k `[B, H, C, K]` and v `[B, H, C, V]`.
    With `decay`, `[B, H, C, 1 or out, 1 or in]`, token i sees the anchor decayed up to it.
    """

    memory = variant.memory
    assert isinstance(memory, ParametricMemory)

    def recall(taps: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = {}

        def tapped(m: str, x: Tensor) -> Tensor:
            h[m] = x
            if m not in decay:
                return x @ anchor[m].mT + taps[m]
            if decay[m].shape[-1] > 1 and decay[m].shape[-2] > 1:
                decayed = decay[m] * anchor[m][:, :, None]
                return (decayed @ x[..., None])[..., 0] + taps[m]
            if decay[m].shape[-1] > 1:
                return (decay[m][..., 0, :] * x) @ anchor[m].mT + taps[m]
            return decay[m][..., 0] * (x @ anchor[m].mT) + taps[m]

        return memory.apply({m: partial(tapped, m) for m in anchor}, k), h

    taps = {m: k.new_zeros(*k.shape[:-1], w.shape[-2]) for m, w in anchor.items()}
    recalled, backward, *(h,) = vjp(recall, taps, has_aux=True)
    (u,) = backward(variant.written.gradient(recalled, v, gates))
    return u, h


def scaled(
    variant: Variant, u: Tensor, h: Tensor, gates: Gates, importance: Tensor | float
) -> Tensor:
    """u with the algorithm's factor on each write, and the importance of its token."""
    algorithm = variant.algorithm
    # The norm costs several passes over all writes, and few algorithms look at it.
    norm = norm_of(u) * norm_of(h) if algorithm.weighs_gradients else u.new_ones(1, 1)
    factor = algorithm.scale(norm[..., None], h[..., None, :], gates)
    for x in (factor[..., 0] if isinstance(factor, torch.Tensor) else factor, importance):
        u = u if isinstance(x, float) and x == 1 else x * u
    return u


def norm_of(x: Tensor) -> Tensor:
    """The norm of vectors `[..., n]`, `[..., 1]`: finite wherever x is, and smooth at zero."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=1)
    return largest * ((x / largest).square().sum(-1, keepdim=True) + TINY).sqrt()

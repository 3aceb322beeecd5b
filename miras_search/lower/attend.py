"""Softmax attention over all of the past and over its last tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 128
"""Fewest queries that are answered together, if there are as many."""


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """The last T tokens attend to N pairs, token t to the first N - T + t + 1.

    q `[B, H, T, K]`, k `[B, H, N, K]`, v `[B, H, N, V]`, giving `[B, H, T, V]`. `scale` None is
    1/sqrt(K).
    """
    tokens, kept = q.shape[-2], k.shape[-2]
    if tokens == 1 or tokens == kept:
        return scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, scale=scale)
    mask = torch.ones(tokens, kept, dtype=torch.bool, device=q.device).tril(kept - tokens)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    scale: float | None = None,
    always: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The same over the last `window` pairs up to each token's own, and over those of `always`,
    `[B, H, P, K]` and `[B, H, P, V]`.
    """
    lead, tokens = q.shape[:2], q.shape[2]
    before = k.shape[2] - tokens
    if tokens < before:  # few queries, such as one: all pairs are of one block
        seen = torch.ones(tokens, k.shape[2], dtype=torch.bool, device=q.device)
        mask = seen.tril(before).triu(before - window + 1)
        if always is not None:
            k, v = (torch.cat([a, x], dim=2) for a, x in zip(always, (k, v), strict=True))
            mask = pad(mask, (always[0].shape[2], 0), value=True)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    # Blocks of queries, each with the keys of its own block and of the one before.
    size = min(max(window, BLOCK), tokens)
    front, rest = size - before, -tokens % size
    q = pad(q, (0, 0, 0, rest)).unflatten(2, (-1, size))
    k, v = (pad(x, (0, 0, front, rest)).unflatten(2, (-1, size)) for x in (k, v))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=-2) for x in (k, v))
    seen = torch.ones(size, 2 * size, dtype=torch.bool, device=q.device)
    seen = seen.tril(size).triu(size - window + 1)
    mask = seen.repeat(q.shape[2], 1, 1)[:, None]
    mask[0, :, :, : max(front, 0)] = False
    if always is not None:
        blocks = k.shape[2]
        first = (x[:, :, None].expand(-1, -1, blocks, -1, -1) for x in always)
        k, v = (torch.cat([a, x], dim=-2) for a, x in zip(first, (k, v), strict=True))
        mask = pad(mask, (always[0].shape[2], 0), value=True)
    # As a batch of blocks with a head for each of samples and heads, whose mask is one.
    q, k, v = (x.flatten(0, 1).transpose(0, 1) for x in (q, k, v))
    y = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return y.transpose(0, 1).flatten(1, 2).unflatten(0, lead)[:, :, :tokens]

"""Softmax attention over the last tokens: a memory that forgets by age alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.memory.base import GrowingMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Fewest queries that are answered together, if there are as many."""


@register
class SlidingWindow(GrowingMemory):
    """The last `window` pairs are kept; a read is their average under softmax(scale * <q, k_i>).

    `scale` None is 1/sqrt(K).
    """

    kind: ClassVar[str] = "sliding_window"
    equation: ClassVar[str] = "M(q) = sum_{i > t - window} softmax_i(<q, k_i> / sqrt(K)) v_i"
    source: ClassVar[str] = "Beltagy et al. 2004.05150; MIRAS 2504.13173, section 3"
    preferred_qk_norm: ClassVar[str] = "rms"

    window: Annotated[int, Field(ge=1, le=2**20)] = 64
    """Pairs a token sees, its own among them."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def formula(self) -> str:
        scaled = "<q, k_i> / sqrt(K)" if self.scale is None else f"{self.scale:g} <q, k_i>"
        return self.equation.replace("<q, k_i> / sqrt(K)", scaled).replace(
            "window", str(self.window)
        )

    @property
    def kept(self) -> int:
        return self.window - 1

    def read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import pad, scaled_dot_product_attention

        batch, _, tokens, _ = q.shape
        before = k.shape[2] - tokens
        # Blocks of queries, each with the keys of its own block and of the one before.
        size = min(max(self.window, BLOCK), max(tokens, before))
        front, rest = size - before, -tokens % size
        q = pad(q, (0, 0, 0, rest)).unflatten(2, (-1, size))
        k, v = (pad(x, (0, 0, front, rest)).unflatten(2, (-1, size)) for x in (k, v))
        k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=-2) for x in (k, v))
        seen = q.new_ones(size, 2 * size).tril(size).triu(size - self.window + 1).bool()
        mask = seen.repeat(q.shape[2], 1, 1)
        mask[0, :, : max(front, 0)] = False
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        mask = mask.repeat(batch, 1, 1)[:, None]
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return y.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :tokens]

"""Softmax attention over the last tokens: a memory that forgets by age alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.memory.base import GrowingMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import Tensor


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
        from miras_search.lower.attend import windowed

        return windowed(q, k, v, self.window, self.scale)

    def recall(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        return scaled_dot_product_attention(q, k, v, scale=self.scale)

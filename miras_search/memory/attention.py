"""Softmax attention: the memory that forgets nothing and grows with every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.memory.base import GrowingMemory
from miras_search.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Attention(GrowingMemory):
    """All pairs are kept; a read is their average under softmax(scale * <q, k_i>).

    The Nadaraya-Watson solution of l2 regression on the pairs. `scale` None is 1/sqrt(K).
    """

    kind: ClassVar[str] = "attention"
    equation: ClassVar[str] = "M(q) = sum_i softmax_i(<q, k_i> / sqrt(K)) v_i"
    source: ClassVar[str] = "Vaswani et al. 1706.03762; MIRAS 2504.13173, section 3"
    preferred_qk_norm: ClassVar[str] = "rms"

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def formula(self) -> str:
        scaled = "<q, k_i> / sqrt(K)" if self.scale is None else f"{self.scale:g} <q, k_i>"
        return self.equation.replace("<q, k_i> / sqrt(K)", scaled)

    def read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from miras_search.lower.attend import causal

        return causal(q, k, v, self.scale)

    def recall(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        return scaled_dot_product_attention(q, k, v, scale=self.scale)

"""A Bregman divergence as the gate: the memory is a link function of a linear state."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from miras_search.registry import register
from miras_search.retention.base import Retention

if TYPE_CHECKING:
    from torch import Tensor


@register
class Bregman(Retention):
    """W_t = f(F'(W_{t-1}) - e_t grad), f the inverse of F'.

    The divergence of F(w) = w log w + (1 - w) log(1 - w) gives the `sigmoid`, whose memory stays
    between 0 and 1 (an initial one must too); F(w) = w^2 / 2 gives the `identity`.
    """

    kind: ClassVar[str] = "bregman"
    equation: ClassVar[str] = "W = f(A), f = sigmoid or identity"
    source: ClassVar[str] = "MIRAS 2504.13173, section 5.2, Bregman divergence"
    linear: ClassVar[bool] = False
    kept: ClassVar[str] = "A_{t-1}"

    link: Literal["sigmoid", "identity"] = "sigmoid"

    @property
    def formula(self) -> str:
        return f"W = {self.link}(A)"

    def expose(self, state: Tensor) -> Tensor:
        return state.sigmoid() if self.link == "sigmoid" else state

    def start(self, weights: Tensor) -> Tensor:
        return weights.logit() if self.link == "sigmoid" else weights

    def feasible(self, free: Tensor) -> Tensor:
        return self.expose(free)

"""Gradient descent with momentum: the past surprise of Titans."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Algorithm, Transition
from miras_search.component import Coefficient, Unit
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Momentum(Algorithm):
    """Heavy-ball momentum whose memory of past gradients is itself gated per token."""

    kind: ClassVar[str] = "momentum"
    equation: ClassVar[str] = (
        "S_t = b_t S_{t-1} - e_t grad l(W; k_t, v_t);  W_t = a_t W_{t-1} + S_t"
    )
    source: ClassVar[str] = "Titans 2501.00663, eq 9-14"
    slots: ClassVar[tuple[str, ...]] = ("weights", "momentum")

    momentum: Unit = "data"

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        momentum = Coefficient(
            name="momentum",
            source=self.momentum,
            low=0,
            high=1,
            initial=0.5,
            per=self.per,
        )
        return (*super().coefficients(chunk), momentum)

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        b = gates["momentum"]
        return Transition(carry=((retain, b), (None, b)), inject=(1.0, 1.0))

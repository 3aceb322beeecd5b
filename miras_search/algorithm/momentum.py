"""Gradient descent with momentum: the past surprise of Titans."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from miras_search.algorithm.base import Transition
from miras_search.algorithm.descent import Accumulating
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Momentum(Accumulating):
    """Heavy-ball momentum whose memory of past gradients is itself gated per token.

    Of `order` 2, the sum of gradients is summed once more: S'_t = b_t S'_{t-1} + S_t moves the
    weights in place of S_t.
    """

    kind: ClassVar[str] = "momentum"
    equation: ClassVar[str] = (
        "S_t = b_t S_{t-1} - e_t grad l(W; k_t, v_t);  W_t = a_t W_{t-1} + S_t"
    )
    source: ClassVar[str] = "Titans 2501.00663, eq 9-14"

    order: Literal[1, 2] = 1
    """How many sums stand between a gradient and the weights."""

    def notes(self) -> list[str]:
        second = ["S'_t = b_t S'_{t-1} + S_t moves W in place of S_t"] if self.order == 2 else []
        return second + super().notes()

    @property
    def lags(self) -> int:
        """A sum of sums acts 1 / (1 - momentum)^2 times and late, which costs a third factor: near
        its limit the recurrence of order 2 is z (z + d)^2 = -e for d = 1 - b, stable below 2 d^3.
        """
        return 1 if self.order == 1 else 3

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights", "momentum", "momentum2")[: 1 + self.order]

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        b, added = gates["momentum"], self.added(gates)
        if self.order == 1:
            return Transition(carry=((retain, b), (None, b)), inject=(added, added))
        carry = ((retain, b, b), (None, b, None), (None, b, b))
        return Transition(carry=carry, inject=(added, added, added))

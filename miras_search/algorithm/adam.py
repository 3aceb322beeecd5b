"""Adam's update on the memory: each entry moves by the sign of what its gradients agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Sum
from miras_search.algorithm.descent import EPSILON, Windowed
from miras_search.component import Coefficient, Share
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@register
class Adam(Windowed):
    """First moment over the root of the second, both gated per token; no bias correction."""

    kind: ClassVar[str] = "adam"
    equation: ClassVar[str] = (
        "m_t = b_t m_{t-1} + (1 - b_t) g;  n_t = c_t n_{t-1} + (1 - c_t) g^2;  "
        "W_t = a_t W_{t-1} - e_t m_t / sqrt(n_t + 1e-6);  g = grad l(W; k_t, v_t)"
    )
    source: ClassVar[str] = "Kingma and Ba 1412.6980, algorithm 1"
    linear: ClassVar[bool] = False

    momentum: Share = "data"
    """Factor on the past mean of gradients."""
    second: Share = "learned"
    """Factor on the past mean of squared gradients. Projected or learned it lies between that on
    the mean and 0.999: outside, a move has no useful bound."""

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights", "momentum", "second")

    def limit(self, chunk: int) -> float:
        """A tenth of what a gradient step may be: every entry moves by about the step."""
        return super().limit(chunk) / 10

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        return (
            *super().coefficients(chunk),
            self._moment("momentum", self.momentum, initial=0.5, high=0.99),
            replace(self._moment("second", self.second, initial=0.9, high=0.999), above="momentum"),
        )

    @property
    def steep(self) -> str | None:
        if isinstance(self.second, str):
            return None
        if not isinstance(self.momentum, str) and self.momentum**2 <= self.second:
            return None
        return "the mean of squares may forget faster than the mean"

    def _moment(self, name: str, source: Share, initial: float, high: float) -> Coefficient:
        return Coefficient(
            name=name, source=source, low=0, high=high, initial=initial, per=self.per
        )

    def sums(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> tuple[Sum, ...]:
        b, c = gates["momentum"], gates["second"]
        return Sum(b, 1 - b), Sum(c, 1 - c, "square")

    def direction(
        self, sums: Sequence[Tensor], gradient: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        first, second = sums
        return first * (second + EPSILON).rsqrt()

"""The entropy gate of Memora: rows of the memory are distributions, written multiplicatively."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Per, Unit
from miras_search.registry import register
from miras_search.retention.base import Retention, decay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Kl(Retention):
    """The minimiser of <grad, W> + a/e KL(W, W_{t-1}) + (1 - a)/e sum W log W on scaled simplices.

    The state is the logarithm of the weights up to a constant in each row, so W_t =
    c softmax(a_t log W_{t-1} - e_t grad) without a logarithm of zero. Every row sums to c, its
    length, so that entries are about 1. An initial memory must be positive. The constant cancels
    only where a_t is the same along a row, so there is no `per: input`.
    """

    kind: ClassVar[str] = "kl"
    equation: ClassVar[str] = "W = n softmax(A) in each row of n entries"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 21 and 27"
    linear: ClassVar[bool] = False
    mixes_rows: ClassVar[bool] = True
    kept: ClassVar[str] = "a_t A_{t-1}"

    retention: Unit = "data"
    per: Per = "head"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (decay(self.retention, self.per, initial=0.99),)

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return gates["retention"]

    def expose(self, state: Tensor) -> Tensor:
        return state.shape[-1] * state.softmax(-1)

    def start(self, weights: Tensor) -> Tensor:
        return weights.log()

    def feasible(self, free: Tensor) -> Tensor:
        return self.expose(free)

"""Weight decay as MIRAS derives it: the write is decayed along with the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Side, Unit
from miras_search.registry import register
from miras_search.retention.base import KEPT, Retention, penalty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class L2LocalGlobal(Retention):
    """The minimiser of <grad, W> + ||W - W_{t-1}||^2 / (2 e_t) + g_t ||W||^2 / 2.

    A local term keeps the memory near where it was, a global one keeps it small; the coefficient
    `ridge` is g_t.
    """

    kind: ClassVar[str] = "l2_local_global"
    equation: ClassVar[str] = "a_t = 1 / (1 + e_t g_t), and every write is scaled by a_t too"
    source: ClassVar[str] = "MIRAS 2504.13173, section 4, eq 5 with a global l2 term"
    uses_step: ClassVar[bool] = True
    kept: ClassVar[str] = KEPT

    ridge: Unit = "data"
    per: Side = "head"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (penalty(self.ridge, self.per),)

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return 1 / (1 + gates["step"] * gates["ridge"])

    def write(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return self.retain(gates)

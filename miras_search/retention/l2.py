"""Weight decay on the memory: the forget gate of RetNet, Mamba-2, Titans and Yaad."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Per, Unit
from miras_search.registry import register
from miras_search.retention.base import KEPT, Retention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class L2(Retention):
    """Scale the old memory by a factor between 0 and 1.

    The penalty (1 - a) / 2 ||W||^2, taken as in Titans: the gradient of the inner loss is at
    the undecayed memory. `per: channel` has one factor for each row of each memory matrix.
    """

    kind: ClassVar[str] = "l2"
    equation: ClassVar[str] = "0 < a_t < 1"
    source: ClassVar[str] = "Titans 2501.00663, eq 13; MIRAS 2504.13173, section 4"
    kept: ClassVar[str] = KEPT

    retention: Unit = "data"
    per: Per = "head"

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (
            Coefficient(
                name="retention",
                source=self.retention,
                low=0,
                high=1,
                initial=0.98,
                per=self.per,
            ),
        )

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return gates["retention"]

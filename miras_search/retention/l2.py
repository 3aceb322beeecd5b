"""Weight decay on the memory: the forget gate of RetNet, GLA, Mamba-2, Titans and Yaad."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from miras_search.component import Coefficient, Side, Unit
from miras_search.registry import register
from miras_search.retention.base import KEPT, Retention, decay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class L2(Retention):
    """Scale the old memory by a factor between 0 and 1.

    The penalty (1 - a) / 2 ||W||^2. `per: channel` has one factor for each row of each memory
    matrix, `per: input` one for each column (GLA). Gradients are taken `at` the old memory
    W_{t-1} (Titans) or at the decayed one a_t W_{t-1} (Gated DeltaNet).
    """

    kind: ClassVar[str] = "l2"
    equation: ClassVar[str] = "0 <= a_t <= 1"
    source: ClassVar[str] = (
        "Titans 2501.00663, eq 13; MIRAS 2504.13173, section 4; Gated DeltaNet 2412.06464, eq 10"
    )
    kept: ClassVar[str] = KEPT

    retention: Unit = "data"
    per: Side = "head"
    at: Literal["old", "decayed"] = "old"

    @property
    def decays_first(self) -> bool:
        return self.at == "decayed"

    @property
    def formula(self) -> str:
        return self.equation + ("; gradients at a_t W_{t-1}" if self.at == "decayed" else "")

    def coefficients(self) -> tuple[Coefficient, ...]:
        return (decay(self.retention, self.per, initial=0.98),)

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        return gates["retention"]

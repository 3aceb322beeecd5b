"""Nesterov's momentum: the step is taken from where the momentum will have led."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Transition
from miras_search.algorithm.descent import Accumulating
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Nesterov(Accumulating):
    """Momentum that looks ahead, in the form of Sutskever et al. that keeps the gradient at W."""

    kind: ClassVar[str] = "nesterov"
    equation: ClassVar[str] = (
        "S_t = b_t S_{t-1} - e_t grad l(W; k_t, v_t);  "
        "W_t = a_t W_{t-1} + b_t S_t - e_t grad l(W; k_t, v_t)"
    )
    source: ClassVar[str] = "Sutskever et al. 2013, section 2, as in torch.optim.SGD"

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights", "momentum")

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        b, added = gates["momentum"], self.added(gates)
        return Transition(carry=((retain, b * b), (None, b)), inject=(b * added + added, added))

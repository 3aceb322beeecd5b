"""The implicit step: each token is solved for, so that no step is too long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Algorithm, Transition
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Implicit(Algorithm):
    """The minimiser of 1/2 ||W k - v||^2 + ||W - a_t W_{t-1}||^2 / (2 e_t).

    In closed form the delta rule at the step e / (1 + e |k|^2), from the decayed memory; for steps
    of each column, 1 + sum_i e_i k_i^2 divides.
    """

    kind: ClassVar[str] = "implicit"
    equation: ClassVar[str] = (
        "W_t = a_t W_{t-1} - e_t / (1 + e_t |k_t|^2) (a_t W_{t-1} k_t - v_t) k_t^T"
    )
    source: ClassVar[str] = "Longhorn 2407.14207, eq 5 and theorem 3.1"
    solves: ClassVar[bool] = True
    decays_first: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights",)

    def limit(self, chunk: int) -> float:
        """Any step is stable, unless gradients of a chunk add up."""
        return math.inf if chunk == 1 else super().limit(chunk)

    def scale(self, norm: Tensor, h: Tensor, gates: Mapping[str, Tensor]) -> Tensor | float:
        return 1 / (1 + (gates["step"] * h.square()).sum(-1, keepdim=True))

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        return Transition(carry=((retain,),), inject=(1.0,))

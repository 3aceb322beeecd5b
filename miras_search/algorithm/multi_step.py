"""Several writes a token: the products of Householder matrices of DeltaProduct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.algorithm.base import Transition
from miras_search.algorithm.descent import Descent
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class MultiStep(Descent):
    """`n` gradient steps a token, each with a key, a value and a step of its own; the memory decays
    at the first.

    `chunk` counts steps. `max_step` 2 lets a step reflect the memory (negative eigenvalues).
    """

    kind: ClassVar[str] = "multi_step"
    equation: ClassVar[str] = (
        "W_t = a_t W_{t-1} - e_t grad l(W; k_t, v_t), n times a token, a_t = 1 but at the first"
    )
    source: ClassVar[str] = "DeltaProduct 2502.10297, section 3"

    n: Annotated[int, Field(ge=1, le=8)] = 2
    """Steps a token."""

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights",)

    @property
    def writes(self) -> int:
        return self.n

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        return Transition(carry=((retain,),), inject=(1.0,))

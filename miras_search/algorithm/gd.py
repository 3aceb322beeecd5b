"""Plain gradient descent, one step a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Transition
from miras_search.algorithm.descent import Windowed
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Gd(Windowed):
    """Each token moves the weights along its own gradient, or along that of a window of tokens."""

    kind: ClassVar[str] = "gd"
    equation: ClassVar[str] = "W_t = a_t W_{t-1} - e_t grad l(W; k_t, v_t)"
    source: ClassVar[str] = "MIRAS 2504.13173, eq 5; a window: Atlas 2505.23735, eq 9-10"
    plain: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights",)

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        return Transition(carry=((retain,),), inject=(1.0,))

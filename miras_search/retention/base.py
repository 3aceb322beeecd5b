"""What a retention gate is: a factor on the old memory."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


KEPT = "a_t W_{t-1}"
"""The kept memory as it stands in the equation of an algorithm."""


class Retention(Component):
    """How much of W_{t-1} is kept at token t."""

    axis: ClassVar[str] = "retention"

    keeps_everything: ClassVar[bool] = False
    """Whether the factor is 1 for every token."""
    kept: ClassVar[str]
    """What stands in place of `KEPT` in the update of a variant."""

    def coefficients(self) -> tuple[Coefficient, ...]:
        """The per-token numbers this gate wants; none unless a subclass says so."""
        return ()

    @abstractmethod
    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor on W_{t-1}: 1 keeps everything. `[..., 1]` or `[..., out]`."""

"""What a memory algorithm is: a linear recurrence over the weights and the optimiser's state."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from miras_search.component import Coefficient, Component, Per, Positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def stable_step(chunk: int) -> float:
    """The largest step a gate may project by default.

    On unit keys one token is stored exactly at step 1 and the delta rule is stable below 2.
    Gradients taken at the start of a chunk add up: C equal keys are stable below 2 / C.
    """
    return min(1.0, 2.0 / chunk)


@dataclass(frozen=True)
class Transition:
    """One token's update of the n tensors an algorithm carries, slot 0 being the weights.

    Z_t[i] = sum_j carry[i][j] Z_{t-1}[j] - inject[i] step_t grad_t. Entries are numbers or
    tensors `[..., 1]` (per head) or `[..., out]` (per row of the matrix); None carries nothing.
    """

    carry: tuple[tuple[Tensor | float | None, ...], ...]
    inject: tuple[Tensor | float, ...]


class Algorithm(Component):
    """The inner optimiser, linear in the gradients it is given.

    One definition, `transition`, serves every lowering: the token loop applies it, and the
    chunked form multiplies the transitions of a chunk out into causal coefficients.
    """

    axis: ClassVar[str] = "algorithm"

    slots: ClassVar[tuple[str, ...]]
    """Names of what is carried from token to token for each matrix; the first is the weights."""

    step: Positive = "data"
    """Source of the step size."""
    per: Per = "head"
    """Whether each head or each row of a matrix has coefficients of its own."""
    max_step: Annotated[float, Field(gt=0)] | None = None
    """Upper end of a projected or learned step; None is `stable_step(chunk)`."""

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        """The step, and what a subclass adds, for gradients taken every `chunk` tokens."""
        limit = self.max_step or stable_step(chunk)
        return (
            Coefficient(
                name="step",
                source=self.step,
                low=0,
                high=limit,
                initial=limit / 2,
                per=self.per,
            ),
        )

    @abstractmethod
    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        """The update of one token, given the factor of the retention gate on the weights."""

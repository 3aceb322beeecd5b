"""What an attentional bias is: a loss between recalled and wanted value, and its gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SMOOTHING = 1e-6
"""|r| is sqrt(r^2 + 1e-6) where its second derivative would be infinite (MIRAS, remark 5)."""


class Bias(Component):
    """The inner loss l(M(k), v).

    `gates` holds the values of `coefficients()` by name, with a last dimension of 1 (per head)
    or V (per channel) that broadcasts against the value.
    """

    axis: ClassVar[str] = "bias"

    uses_prediction: ClassVar[bool] = True
    """Whether the gradient depends on what the memory recalls; without, a linear memory is
    written the same whatever it holds."""
    quadratic: ClassVar[bool] = False
    """Whether the loss is 1/2 ||M(k) - v||^2, so that exact solvers apply."""

    adds_channels: ClassVar[bool] = True
    """Whether a channel that recalls 0 where 0 is wanted leaves the others as they were."""

    def coefficients(self) -> tuple[Coefficient, ...]:
        """The per-token numbers this bias wants; none unless a subclass says so."""
        return ()

    @abstractmethod
    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """The loss of each token: pred and target `[..., V]`, giving `[...]`."""

    @abstractmethod
    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """The gradient of `loss` with respect to pred, `[..., V]`, in closed form.

        It must itself be differentiable with finite derivatives, at pred = target too: the
        outer loss is trained through it.
        """

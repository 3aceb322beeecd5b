"""What the algorithms that follow gradients share: stabilisers, windows and running sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from miras_search.algorithm.base import Algorithm, stable_step
from miras_search.component import Coefficient, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

EPSILON = 1e-6
"""Added to squared lengths that something is divided by."""


class Descent(Algorithm):
    """Steps along gradients, with stabilisers that are off unless they are asked for."""

    normalize: bool = False
    """Divide each write by the squared length of what enters the matrix (normalised LMS)."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest Frobenius norm of the gradient of a token with respect to a matrix."""
    average: bool = False
    """Divide the step by the chunk: a mean over the chunk where there was a sum."""

    def limit(self, chunk: int) -> float:
        return stable_step(1 if self.average else chunk)

    def steps(self, chunk: int) -> float:
        return 1 / chunk if self.average else 1.0

    def scale(self, squared: Tensor, h: Tensor, gates: Mapping[str, Tensor]) -> Tensor | float:
        factor: Tensor | float = 1.0
        if self.normalize:
            factor = 1 / (h.square().sum(-1, keepdim=True) + EPSILON)
        if self.clip is not None:
            size = squared * factor * factor
            factor = factor * self.clip * size.clamp(min=self.clip**2).rsqrt()
        return factor


class Windowed(Descent):
    """An algorithm that may minimise the losses of the last `window` tokens at every token.

    The omega rule (Atlas 2505.23735, eq 9): the gradient at token t is the sum over
    i = t - window + 1 .. t of importance_i grad l(W; k_i, v_i), all at the same memory.
    """

    window: Annotated[int, Field(ge=1, le=1024)] = 1
    """Tokens; 1 is the token itself."""
    importance: Unit = "data"
    """Weight of each token in a window longer than 1."""

    @property
    def window_length(self) -> int:
        return self.window

    def limit(self, chunk: int) -> float:
        return super().limit(chunk) / self.window

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        wanted = super().coefficients(chunk)
        if self.window == 1:
            return wanted
        importance = Coefficient(
            name="importance", source=self.importance, low=0, high=1, initial=0.5
        )
        return (*wanted, importance)


class Accumulating(Windowed):
    """An algorithm with a running sum of gradients, gated by the coefficient `momentum`."""

    momentum: Unit = "data"
    """Factor on the past sum."""
    dampening: bool = False
    """Scale what is added to the sum by 1 - momentum, so that it is an average."""

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        momentum = Coefficient(
            name="momentum", source=self.momentum, low=0, high=1, initial=0.5, per=self.per
        )
        return (*super().coefficients(chunk), momentum)

    def added(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor on what is added to the sum."""
        return 1 - gates["momentum"] if self.dampening else 1.0

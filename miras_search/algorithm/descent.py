"""What the algorithms that follow gradients share: stabilisers, windows and running sums."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from miras_search.algorithm.base import Algorithm, stable_step
from miras_search.component import Coefficient, Share, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

EPSILON = 1e-6
"""Added to squared lengths that something is divided by."""


class Descent(Algorithm):
    """Steps along gradients, with stabilisers that are off unless they are asked for."""

    normalize: bool = False
    """Divide each write by the squared length of what enters the matrix (normalised LMS)."""
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest Frobenius norm of the gradient of a token with respect to a matrix."""
    average: bool = False
    """Divide the step by the chunk: a mean over the chunk where there was a sum."""

    @property
    def weighs_gradients(self) -> bool:
        return self.clip is not None

    @property
    def formula(self) -> str:
        return "; ".join([self.equation, *self.notes()])

    def notes(self) -> list[str]:
        """What the settings change of the equation, each in a few words."""
        told = ["each gradient over |h|^2 of what enters its matrix"] if self.normalize else []
        told += [f"each gradient clipped to a norm of {self.clip:g}"] if self.clip else []
        return told + (["e_t over the chunk"] if self.average else [])

    def limit(self, chunk: int) -> float:
        return stable_step(1 if self.average else chunk)

    def steps(self, chunk: int) -> float:
        return 1 / chunk if self.average else 1.0

    def scale(self, norm: Tensor, h: Tensor, gates: Mapping[str, Tensor]) -> Tensor | float:
        factor: Tensor | float = 1.0
        if self.normalize:
            factor = 1 / (h.square().sum(-1, keepdim=True) + EPSILON)
        if self.clip is not None:
            factor = factor * self.clip / (norm * factor).clamp(min=self.clip)
        return factor


class Windowed(Descent):
    """An algorithm that may minimise the losses of the last `window` tokens at every token.

    The omega rule (Atlas 2505.23735, eq 9): the gradient at token t is the sum over
    i = t - window + 1 .. t of importance_i grad l(W; k_i, v_i), all at the same memory.
    """

    window: Annotated[int, Field(ge=1, le=64)] = 1
    """Tokens; 1 is the token itself."""
    importance: Source | Annotated[float, Field(gt=0, le=1)] = "data"
    """Weight of each token in a window longer than 1."""

    @property
    def window_length(self) -> int:
        return self.window

    def notes(self) -> list[str]:
        wide = self.window > 1
        told = [f"grad l sums i_j grad l(W; k_j, v_j), j = t-{self.window - 1}..t"] if wide else []
        return told + super().notes()

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

    momentum: Share = "data"
    """Factor on the past sum. A gradient acts 1 / (1 - momentum) times, so a projected step ends at
    1 - momentum times what is stable without it (see `lags`)."""
    dampening: bool = False
    """Scale gradients by 1 - momentum, so that their sum is an average."""

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        momentum = Coefficient(
            name="momentum", source=self.momentum, low=0, high=1, initial=0.5, per=self.per
        )
        step, *others = super().coefficients(chunk)
        if self.momentum != 0:
            step = replace(step, beside=("momentum",) * (self.lags - self.dampening))
        return (step, *others, momentum)

    @property
    def lags(self) -> int:
        """How many factors 1 - momentum keep the largest stable step stable."""
        return 1

    def notes(self) -> list[str]:
        return super().notes() + (["each gradient times 1 - b_t"] if self.dampening else [])

    def added(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor on what is added to the sum."""
        return 1 - gates["momentum"] if self.dampening else 1.0

"""Muon: the running sum of gradients, made orthogonal before it moves the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from miras_search.algorithm.base import Sum
from miras_search.algorithm.descent import Accumulating
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from miras_search.component import Coefficient

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic that takes singular values in (0, 1] to about 1 (Jordan et al. 2024)."""
ITERATIONS = 5
TINY = 1e-12
"""Added to the squared norm, so that a sum of zero stays zero."""


@register
class Muon(Accumulating):
    """Every direction of the running sum moves the weights by about the same step."""

    kind: ClassVar[str] = "muon"
    equation: ClassVar[str] = (
        "S_t = b_t S_{t-1} + grad l(W; k_t, v_t);  W_t = a_t W_{t-1} - e_t NewtonSchulz5(S_t)"
    )
    source: ClassVar[str] = "Atlas 2505.23735, eq 32-33; Jordan et al. 2024"
    linear: ClassVar[bool] = False
    bounded: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights", "momentum")

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        """As of a running sum, but that its size does not count: it is made orthogonal."""
        step, *others = super().coefficients(chunk)
        return (replace(step, beside=()), *others)

    def limit(self, chunk: int) -> float:
        """A quarter of what a gradient step may be: every write has unit size, however little there
        is left to learn."""
        return super().limit(chunk) / 4

    def sums(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> tuple[Sum, ...]:
        return (Sum(gates["momentum"], self.added(gates)),)

    def direction(
        self, sums: Sequence[Tensor], gradient: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        return newton_schulz(sums[0])


def newton_schulz(x: Tensor) -> Tensor:
    """About U V^T for x = U S V^T, `[..., out, in]`."""
    from torch import baddbmm

    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.detach().abs().amax((-2, -1), keepdim=True).clamp(min=1)  # squares stay finite
    x = x * (x.square().sum((-2, -1), keepdim=True) + TINY).rsqrt()
    a, b, c = COEFFICIENTS
    shape, x = x.shape, x.flatten(0, -3)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = baddbmm(x, baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape)
    return x.mT if tall else x

"""Recursive least squares: the best linear memory of everything so far, at every token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from miras_search.algorithm.base import Algorithm, Sum
from miras_search.component import Coefficient, Positive
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@register
class Newton(Algorithm):
    """The minimiser of sum_i w_i ||W k_i - v_i||^2 + ||W D^(1/2)||^2, w_i = e_i a_{i+1} .. a_t.

    D is diagonal, the coefficient `damping`. Carried are the sums G_t and H_t; the memory is solved
    exactly where Mesa takes 30 conjugate gradient steps. The initial memory is G_0.
    """

    kind: ClassVar[str] = "newton"
    equation: ClassVar[str] = (
        "G_t = a_t G_{t-1} + e_t v_t k_t^T;  H_t = a_t H_{t-1} + e_t k_t k_t^T;  "
        "W_t = G_t (H_t + diag(d))^-1"
    )
    source: ClassVar[str] = "MesaNet 2506.05233, section 3"
    linear: ClassVar[bool] = False
    solves: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    damping: Positive = "learned"
    """Source of the regulariser, one number for each column."""

    @property
    def slots(self) -> tuple[str, ...]:
        return ("weights", "curvature")

    @model_validator(mode="after")
    def _rows_share_their_curvature(self) -> Newton:
        if self.per != "head":
            raise ValueError("newton keeps one curvature for all rows, so its step is per head")
        return self

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        damping = Coefficient(
            name="damping", source=self.damping, low=0.0, high=math.inf, initial=1.0, per="input"
        )
        return (*super().coefficients(chunk), damping)

    def sums(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> tuple[Sum, ...]:
        return (Sum(retain, gates["step"], "input"),)

    def direction(
        self, sums: Sequence[Tensor], gradient: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        return gradient

    def probe(self, x: Tensor, slots: Sequence[Tensor], gates: Mapping[str, Tensor]) -> Tensor:
        import torch

        curvature = slots[1]
        damping = gates["damping"].expand(*curvature.shape[:-2], 1, curvature.shape[-1])
        system = curvature + damping[..., 0, :].diag_embed()
        # In half precision nothing is solved.
        full = torch.promote_types(x.dtype, torch.float32)
        # Never singular, and to look whether it is would make a GPU wait.
        found, _ = torch.linalg.solve_ex(system.to(full), x[..., None].to(full))
        return found[..., 0].to(x.dtype)

    def shapes(self, out: int, width: int) -> dict[str, tuple[int, int]]:
        return {"weights": (out, width), "curvature": (width, width)}

"""How the outputs of attention and memory meet in one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class Product(nn.Module):
    """W (silu(norm(a)) * silu(norm(b))), each norm with a learned vector (Titans 2501.00663,
    equation 28, and here for equation 25 too)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a and b `[..., D]` to `[..., D]`."""
        norm_a, norm_b = self.norms
        # Under autocast what comes in may be shorter than the weights of a norm.
        a, b = a.to(self.output.weight.dtype), b.to(self.output.weight.dtype)
        return self.output(functional.silu(norm_a(a)) * functional.silu(norm_b(b)))

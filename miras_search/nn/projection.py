"""Vectors of each head from tokens: a linear map, a short convolution, SiLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from miras_search.lower.call import State
from miras_search.nn.state import check

if TYPE_CHECKING:
    from torch import Tensor


class Projection(nn.Module):
    """`parts` vectors of each head for each token: linear, causal depthwise convolution with a
    kernel of `kernel` tokens (0 leaves it out), SiLU (Titans 2501.00663, section 4.4)."""

    def __init__(self, width: int, heads: int, parts: int, kernel: int) -> None:
        super().__init__()
        self.heads, self.parts, self.past = heads, parts, max(kernel, 1) - 1
        channels = parts * width
        self.linear = nn.Linear(width, channels, bias=False)
        self.conv: nn.Conv1d | None = None
        if kernel:
            self.conv = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x `[B, T, D]` to `[B, T, parts, H, D/H]`, and the state after the last token: "inputs" of
        the convolution, `[B, parts D, kernel - 1]`."""
        y = self.linear(x)
        shape = (len(y), y.shape[-1], self.past)
        if state is None:
            state = State({"inputs": y.new_zeros(shape)})
        check(state, y, inputs=shape)
        padded = torch.cat([state.tensors["inputs"].mT, y], dim=1)
        if self.conv is not None:
            # As an image of one row whose channels lie innermost, as they do before and after it:
            # a convolution of a sequence would copy them to the outside.
            image, kernel = padded.mT[:, :, None], self.conv.weight.unflatten(1, (1, 1))
            y = functional.conv2d(image, kernel, groups=self.conv.groups).squeeze(2).mT.contiguous()
        y = functional.silu(y).unflatten(-1, (self.parts, self.heads, -1))
        # A copy: a view would hold all that was read.
        last = padded[:, padded.shape[1] - self.past :].mT
        return y, State({"inputs": last.clone(memory_format=torch.contiguous_format)})

"""What a target is said from: each token's own hidden state, or that of the last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.tasks.base import Readout


class LastTokenDecoder(nn.Linear):
    """Logits of every position from the last hidden state and the position: the decoder of MAD's
    compression task (2403.17844 and its AutoEncoder).

    Sines and cosines of the position are added to the state; then twice a norm, a linear map and a
    GELU, then a norm and the linear map to logits.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__(width, vocabulary, bias=False)
        hidden = (nn.RMSNorm(width), nn.Linear(width, width), nn.GELU())
        again = (nn.RMSNorm(width), nn.Linear(width, width), nn.GELU())
        self.hidden = nn.Sequential(*hidden, *again, nn.RMSNorm(width))

    def forward(self, input: Tensor) -> Tensor:
        """Hidden states `[B, T, D]`, of which the last is read, to logits `[B, T, vocabulary]`."""
        told = input[:, -1:] + positions(*input.shape[1:]).to(input)
        return super().forward(self.hidden(told))


def positions(length: int, width: int) -> Tensor:
    """Sines, then cosines of 0 .. length - 1 at wavelengths from 2 pi to 2 pi 10^4, `[T, D]`
    (Vaswani et al. 1706.03762, section 3.5); an odd width ends with a zero."""
    half = width // 2
    rates = torch.logspace(0, -4, half)
    angles = torch.arange(length)[:, None] * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def head(width: int, vocabulary: int, readout: Readout) -> nn.Linear:
    """What makes logits `[B, T, vocabulary]` of hidden states `[B, T, D]`.

    Raises:
        ValueError: there is no such readout.
    """
    match readout:
        case "each":
            return nn.Linear(width, vocabulary, bias=False)
        case "last":
            return LastTokenDecoder(width, vocabulary)
        case _:
            raise ValueError(f"expected the readout 'each' or 'last', got {readout!r}")

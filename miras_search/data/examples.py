"""Map-style datasets that keep many examples in little memory, and seeds with names."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Examples written out, in any integer type; items are int64.

    Args:
        tokens: `[N, T]`.
        targets: `[N, T]`.
    """

    def __init__(self, tokens: Tensor, targets: Tensor) -> None:
        self.tokens = tokens
        self.targets = targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index].long(), self.targets[index].long()


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Stretches of one text; the target of each byte is the next one.

    Args:
        text: uint8 `[bytes]`.
        starts: `[N]`, where each example begins; `length` + 1 bytes are read from there.
        length: tokens of an example.
    """

    def __init__(self, text: Tensor, starts: Tensor, length: int) -> None:
        self.text = text
        self.starts = starts
        self.length = length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = int(self.starts[index])
        window = self.text[start : start + self.length + 1].long()
        return window[:-1], window[1:]


def generator(*names: object) -> torch.Generator:
    """A CPU generator seeded from names, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def first_equal(values: Tensor) -> Tensor:
    """Where each value of a row stands first: int64 indices of the last dimension, `[..., n]`."""
    ordered, order = values.sort(dim=-1, stable=True)
    # Equal values are neighbours now, in their order: each belongs to the last new one before it.
    begins = torch.arange(values.shape[-1]).repeat(*values.shape[:-1], 1)
    begins[..., 1:][ordered[..., 1:] == ordered[..., :-1]] = 0
    leader = order.gather(-1, begins.cummax(dim=-1).values)
    return torch.empty_like(order).scatter_(-1, order, leader)

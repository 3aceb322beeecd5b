"""Map-style datasets that keep many examples in little memory, and seeds with names."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, RandomSampler, Sampler


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


def parts(dataset: Any) -> list[Any]:
    """The sets that a training set is made of, each with examples of one length."""
    return dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]


class Batches(Sampler[list[int]]):
    """An epoch of shuffled batches, each from one of `parts`, with every example in one of them.

    All examples are drawn in random order, as `DataLoader(shuffle=True)` draws them, and wait
    until there are enough of their part. So batches of all parts alternate at random, as often as
    their parts are large; one smaller batch a part may be left, and these come last.

    Args:
        dataset: as `Task.dataset` gives it.
        size: examples in a batch.
        random: where chance comes from; it moves on from epoch to epoch.
        least: a smaller batch than that is left out.
    """

    def __init__(self, dataset: Any, size: int, random: torch.Generator, least: int = 1) -> None:
        self.order = RandomSampler(dataset, generator=random)
        self.counts = [len(part) for part in parts(dataset)]
        self.size, self.least = size, least

    def __len__(self) -> int:
        left = sum(count % self.size >= self.least for count in self.counts)
        return sum(count // self.size for count in self.counts) + left

    def __iter__(self) -> Iterator[list[int]]:
        ends = [*accumulate(self.counts)]
        waiting: list[list[int]] = [[] for _ in ends]
        for index in self.order:
            part = bisect_right(ends, index)
            waiting[part].append(index)
            if len(waiting[part]) == self.size:
                yield waiting[part]
                waiting[part] = []
        yield from (batch for batch in waiting if len(batch) >= self.least)


class Shares(Sampler[list[int]]):
    """Of every batch the examples that one of several processes takes.

    Args:
        batches: the same in every process, none of them with fewer examples than processes.
        index: which of the processes, from 0.
        count: how many there are.
    """

    def __init__(self, batches: Batches, index: int, count: int) -> None:
        self.batches, self.index, self.count = batches, index, count

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.index :: self.count] for batch in self.batches)


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

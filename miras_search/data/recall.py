"""Examples of multi-query associative recall, a set at a time (see `tasks/mqar.py`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from miras_search.data.examples import Rows, generator
from miras_search.tasks.base import IGNORE

_BLOCK = 8192
"""Examples written at a time: the clocks of a whole set would take gigabytes."""


def contexts(
    examples: int, pairs: int, vocab: int, taken: Iterable[Tensor], random: Generator
) -> Tensor:
    """Keys and values, interleaved; every row differs from all others and from those taken.

    Args:
        examples: number of rows.
        pairs: keys, and values, in a row.
        vocab: keys are 1 .. vocab/2 - 1, values vocab/2 .. vocab - 1.
        taken: rows to avoid, `[any, 2 * pairs]` each.
        random: where chance comes from.

    Returns:
        int64 `[examples, 2 * pairs]`.
    """
    # A row as one number: rows with different numbers differ, and rows that share one by
    # accident only cost a redraw.
    mix = torch.randint(2**62, (2 * pairs,), generator=generator("mqar", "mix")).mul_(2).add_(1)
    before = torch.cat([torch.empty(0, dtype=torch.int64), *((t * mix).sum(1) for t in taken)])
    rows = torch.empty(examples, 2 * pairs, dtype=torch.int64)
    again = torch.ones(examples, dtype=torch.bool)
    while again.any():
        count = int(again.sum())
        keys = distinct(count, pairs, 1, vocab // 2, random)
        values = distinct(count, pairs, vocab // 2, vocab, random)
        rows[again] = torch.stack([keys, values], 2).flatten(1)
        again = _repeats(torch.cat([before, (rows * mix).sum(1)]))[len(before) :]
    return rows


def ask(
    context: Tensor, length: int, vocab: int, power: float, random_fill: bool, random: Generator
) -> Rows:
    """Examples that begin with `context` `[N, 2 * pairs]` and then ask for every key once."""
    written = [
        _ask(block, length, vocab, power, random_fill, random) for block in context.split(_BLOCK)
    ]
    tokens, targets = zip(*written, strict=True)
    return Rows(torch.cat(tokens), torch.cat(targets))


def _ask(
    context: Tensor, length: int, vocab: int, power: float, random_fill: bool, random: Generator
) -> tuple[Tensor, Tensor]:
    rows, told = context.shape
    asked_at = told + 2 * slots(rows, told // 2, (length - told) // 2, power, random)
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    if random_fill:
        tokens.random_(0, vocab, generator=random)
    tokens[:, :told] = context
    tokens.scatter_(1, asked_at, context[:, 0::2])
    targets = torch.full_like(tokens, IGNORE).scatter_(1, asked_at, context[:, 1::2])
    compact = torch.int16 if vocab <= 2**15 else torch.int32
    return tokens.to(compact), targets.to(compact)


def distinct(rows: int, count: int, low: int, high: int, random: Generator) -> Tensor:
    """Rows of distinct numbers in low .. high - 1, every ordered choice equally likely.

    Redrawing repeats treats all numbers alike, so the result is uniform by symmetry.
    """
    drawn = torch.randint(low, high, (rows, count), generator=random)
    left = torch.arange(rows)
    while len(left):
        again = _repeats(drawn[left])
        bad = again.any(1)
        left, again = left[bad], again[bad]
        row, column = again.nonzero(as_tuple=True)
        drawn[left[row], column] = torch.randint(low, high, (len(row),), generator=random)
    return drawn


def slots(rows: int, count: int, total: int, power: float, random: Generator) -> Tensor:
    """`[rows, count]` of 0 .. total - 1, drawn in order without replacement.

    Slot g - 1 has weight power * g^(power - 1). An exponential race: clocks of these rates ring
    in the order of such draws.
    """
    gap = torch.arange(1, total + 1, dtype=torch.float64)
    # Minus the time at which each clock rings.
    clock = torch.rand(rows, total, dtype=torch.float64, generator=random).log_()
    return clock.div_(power * gap.pow(power - 1)).topk(count, dim=1).indices


def _repeats(values: Tensor) -> Tensor:
    """Where an equal value stands earlier in the same row: bool, shaped like `values`."""
    ordered, order = values.sort(dim=-1, stable=True)
    again = torch.zeros_like(values, dtype=torch.bool)
    return again.scatter_(-1, order[..., 1:], ordered[..., 1:] == ordered[..., :-1])

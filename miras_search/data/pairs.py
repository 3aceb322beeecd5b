"""Sequences of keys and values, in which a key that comes again has the value it had before
(see `tasks/in_context_recall.py` and `tasks/fuzzy_recall.py`)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from miras_search.data.examples import first_equal
from miras_search.data.recall import distinct
from miras_search.data.splits import fingerprints
from miras_search.tasks.base import IGNORE


def say_next(sequence: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The sequence, and as targets those of its tokens that are asked for, each one place earlier.

    Args:
        sequence: int64 `[N, T]`.
        asked: bool `[N, T]`.
    """
    targets = torch.full_like(sequence, IGNORE)
    targets[:, :-1] = sequence[:, 1:].where(asked[:, 1:], IGNORE)
    return sequence, targets


def single(
    rows: int,
    pairs: int,
    keys: int,
    values: int,
    noise: float,
    noise_tokens: int,
    random: Generator,
) -> tuple[Tensor, Tensor]:
    """Pairs of one token each, some of them replaced by two tokens of noise.

    At least one pair but the last is no noise, and the last has a key that was there before, each
    of them equally likely.

    Args:
        rows: number of sequences.
        pairs: two or more.
        keys: keys are 0 .. keys - 1.
        values: values are the next so many numbers.
        noise: the share of pairs that are noise.
        noise_tokens: noise is the next so many numbers.
        random: where chance comes from.

    Returns:
        Sequences, int64 `[rows, 2 * pairs]`, and which of their tokens are the value of a key that
        was there before, bool.
    """
    key = torch.randint(keys, (rows, pairs), generator=random)
    value = torch.randint(keys, keys + values, (rows, pairs), generator=random)
    noisy = torch.rand(rows, pairs, generator=random) < noise
    noisy.scatter_(1, torch.randint(pairs - 1, (rows, 1), generator=random), False)
    noisy[:, -1] = False
    place = torch.arange(pairs)
    # Noise has a key of its own, which never comes again.
    leader = first_equal(key.where(~noisy, -1 - place))
    new = (leader == place) & ~noisy
    lot = torch.rand(rows, pairs - 1, generator=random).where(new[:, :-1], -1)
    leader[:, -1] = lot.argmax(1)
    again = (leader != place) & ~noisy
    sequence = torch.stack([key.gather(1, leader), value.gather(1, leader)], 2)
    if noise:
        low = keys + values
        other = torch.randint(low, low + noise_tokens, sequence.shape, generator=random)
        sequence = other.where(noisy[..., None], sequence)
    asked = torch.stack([torch.zeros_like(again), again], 2)
    return sequence.flatten(1), asked.flatten(1)


def motifs(rows: int, sizes: tuple[int, ...], low: int, high: int, random: Generator) -> Tensor:
    """Distinct tokens of low .. high - 1, as many as one of the sizes says, each equally likely.

    Returns:
        int64 `[rows, largest size]`, ended by -1.
    """
    drawn = distinct(rows, sizes[-1], low, high, random)
    size = torch.tensor(sizes)[torch.randint(len(sizes), (rows, 1), generator=random)]
    return drawn.masked_fill(torch.arange(sizes[-1]) >= size, -1)


def fuzzy(
    rows: int,
    length: int,
    tokens: tuple[int, int],
    key_sizes: tuple[int, ...],
    value_sizes: tuple[int, ...],
    random: Generator,
) -> tuple[Tensor, Tensor]:
    """Pairs of motifs. The last one, the probe, is somewhere before as well.

    Args:
        rows: number of sequences.
        length: tokens of a sequence, at least three pairs of the largest size.
        tokens: keys are made of 0 .. tokens[0] - 1, values of the next tokens[1] numbers; the
            number after these fills the beginning.
        key_sizes: tokens that a key may have, in rising order.
        value_sizes: tokens that a value may have, in rising order.
        random: where chance comes from.

    Returns:
        Sequences, int64 `[rows, length]`, and which of their tokens are in the value of a key that
        was there before, bool.
    """
    fill = sum(tokens)
    largest = key_sizes[-1] + value_sizes[-1]
    pairs = 1 + length // (key_sizes[0] + value_sizes[0])

    # More pairs than fit, and the probe before all of them, so that its value is the one to keep.
    drawn = rows * (1 + pairs)
    key = motifs(drawn, key_sizes, 0, tokens[0], random).view(rows, 1 + pairs, -1)
    value = motifs(drawn, value_sizes, tokens[0], fill, random).view(rows, 1 + pairs, -1)
    name = fingerprints(key.flatten(0, 1)).view(rows, 1 + pairs)
    value = value.gather(1, first_equal(name)[..., None].expand_as(value))
    size = (key >= 0).sum(2) + (value >= 0).sum(2)

    # It goes where the first pair begins that is at a random place or later. Pairs end where one of
    # the largest size and the probe might no longer fit.
    room = length - size[:, :1] - largest
    place = (torch.rand(rows, 1, generator=random) * (room - largest + 1)).long()
    before = (size[:, 1:].cumsum(1) - size[:, 1:] < place).sum(1, keepdim=True)
    slot = torch.arange(1 + pairs)
    order = torch.where(slot < before, slot + 1, slot).masked_fill(slot == before, 0)
    size, name = size.gather(1, order), name.gather(1, order)
    left_out = size.cumsum(1) - size >= room

    pair = torch.cat([key, value], 2)
    in_value = torch.arange(pair.shape[2]) >= key_sizes[-1]
    again = (first_equal(name) != slot)[..., None] & in_value
    body = pair.gather(1, order[..., None].expand_as(pair)).masked_fill(left_out[..., None], -1)
    cells = torch.cat([body.flatten(1), pair[:, 0]], 1)
    asked = torch.cat([again.flatten(1), in_value.expand(rows, -1)], 1)
    # What is empty moves to the beginning, and the rest stays in order.
    full = (cells >= 0).byte().sort(dim=1, stable=True).indices[:, -length:]
    cells, asked = cells.gather(1, full), asked.gather(1, full)
    return cells.where(cells >= 0, fill), asked & (cells >= 0)

"""Splits by content: an example says itself where it belongs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from miras_search.data.examples import Rows, first_equal, generator
from miras_search.errors import InvalidValues

_PARTS = {"train": (0, 1), "validation": (2,), "test": (3,)}
"""Quarters of all examples."""

_BLOCK = 2048
"""Examples drawn at a time: long ones take gigabytes by the ten thousands."""


def collect(
    draw: Callable[[int], tuple[Tensor, Tensor]], part: str, count: int, field: str
) -> Rows:
    """Draw until there are `count` different examples of a part.

    Args:
        draw: gives tokens and targets, `[n, T]` each, of n random examples.
        part: "train" holds half of all examples, the others a quarter each.
        count: how many are wanted.
        field: what to blame if there are not so many.

    Raises:
        InvalidValues: two thousand examples were drawn and none of them was new.
    """
    seen = torch.empty(0, dtype=torch.int64)
    kept: list[tuple[Tensor, Tensor]] = []
    while len(seen) < count:
        tokens, targets = draw(_BLOCK)
        marks = fingerprints(tokens)
        once = first_equal(marks) == torch.arange(len(marks))
        mine = torch.isin(quarters(marks), torch.tensor(_PARTS[part]))
        new = (once & mine & ~torch.isin(marks, seen)).nonzero()[: count - len(seen), 0]
        if not len(new):
            told = f"found {len(seen)} different examples for {part}, wanted {count}"
            raise InvalidValues([((field,), f"{told}: expected fewer, or longer examples")])
        seen = torch.cat([seen, marks[new]])
        kept.append((_compact(tokens[new]), _compact(targets[new])))
    tokens, targets = zip(*kept, strict=True)
    return Rows(torch.cat(tokens), torch.cat(targets))


def fingerprints(tokens: Tensor) -> Tensor:
    """A number for each row of `[N, T]`, int64 `[N]`; equal for equal rows.

    Different rows share one with odds near 2^-64, and then one of them is left out.
    """
    odd = torch.randint(2**62, (tokens.shape[1],), generator=generator("fingerprints")) * 2 + 1
    sums = ((tokens + 1) * odd).sum(1)
    # The sum is linear in the tokens; a rule to be learned may be, too (parity).
    return (sums ^ (sums >> 32)) * odd[0]


def quarters(marks: Tensor) -> Tensor:
    """0 .. 3, equally often, by the highest bits of a fingerprint."""
    return (marks >> 62) & 3


def _compact(tokens: Tensor) -> Tensor:
    return tokens.to(torch.int16 if int(tokens.max()) < 2**15 else torch.int32)

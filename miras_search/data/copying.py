"""Examples that are read whole and said again (see `tasks/selective_copying.py`)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from miras_search.tasks.base import IGNORE


def among_blanks(
    rows: int, length: int, told: int, kinds: int, random: Generator
) -> tuple[Tensor, Tensor]:
    """Tokens among blanks, a sign, and as many blanks, at which they are asked for.

    Args:
        rows: number of examples.
        length: tokens of an example, more than twice `told`.
        told: tokens to say again.
        kinds: these are any of 0 .. kinds - 1; blank is the next number, the sign the one after.
        random: where chance comes from.

    Returns:
        Tokens and targets, int64 `[rows, length]`.
    """
    blanks = length - 2 * told - 1
    said = torch.randint(kinds, (rows, told), generator=random)
    # Each blank stands before one of the tokens.
    before = torch.randint(told, (rows, blanks), generator=random)
    count = torch.zeros_like(said).scatter_add_(1, before, torch.ones_like(before))
    tokens = torch.full((rows, length), kinds)
    tokens.scatter_(1, torch.arange(told) + count.cumsum(1), said)
    tokens[:, -told - 1] = kinds + 1
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -told:] = said
    return tokens, targets

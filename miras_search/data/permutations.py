"""Products in a symmetric group (see `tasks/permutation.py`)."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from torch import Tensor


def products(tokens: Tensor, degree: int) -> Tensor:
    """The product of each prefix of words in S_degree: int64 `[N, T]` to `[N, T]`."""
    table = _table(degree)
    found = [tokens[:, 0]]
    for token in tokens.unbind(1)[1:]:
        found.append(table[found[-1], token])
    return torch.stack(found, 1)


@cache
def _table(degree: int) -> Tensor:
    """int64 `[n!, n!]`: entry [p, q] is the number of j -> p[q[j]] in alphabetical order."""
    ordered = torch.tensor([*permutations(range(degree))])
    # As numbers in base `degree` they are in the same order.
    base = degree ** torch.arange(degree - 1, -1, -1)
    products = ordered[:, ordered]  # [p, q, j]
    return torch.searchsorted((ordered * base).sum(1), (products * base).sum(2))

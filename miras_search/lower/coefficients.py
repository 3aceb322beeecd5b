"""Transitions of single tokens multiplied out into the causal coefficients of a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from miras_search.algorithm.base import Transition


@dataclass(frozen=True)
class Coefficients:
    """What each token of a chunk sees of the n carried tensors Z and of the C writes u h^T.

        W_t    = sum_j read_carry[t, j] Z[j] - sum_{i <= t} read_write[t, i] u_i h_i^T
        Z_C[m] = sum_j end_carry[m, j]  Z[j] - sum_i        end_write[m, i]  u_i h_i^T

    Each has leading dimensions of the gates and, if any gate is per row of the matrix, a last
    dimension `out` (else 1); with `columns` it is `in`, for gates per column.
    """

    read_carry: Tensor
    """`[..., C, n, out or 1]`"""
    read_write: Tensor
    """`[..., C, C, out or 1]`, zero above the diagonal."""
    end_carry: Tensor
    """`[..., n, n, out or 1]`"""
    end_write: Tensor
    """`[..., n, C, out or 1]`"""
    columns: bool = False


def multiply_out(update: Transition, tokens: Tensor) -> Coefficients:
    """The coefficients of a chunk whose tokens have the transitions `update`, `[..., C, *]`.

    Each carried tensor after token t is a combination of the n tensors carried in and of the
    writes so far; one pass over the tokens of a chunk, for all chunks at once, gives its
    weights. Nothing is divided and no logarithm taken, so that a factor of 0 is exact.
    `tokens` `[C, 1]` gives length, dtype and device where the entries are numbers.
    """
    n, chunk = len(update.inject), tokens.shape[0]
    entries = [*(entry for row in update.carry for entry in row), *update.inject]
    columns = torch.broadcast_tensors(
        tokens,
        *(x if isinstance(x, torch.Tensor) else tokens.new_tensor(x or 0.0) for x in entries),
    )[1:]
    by_token = [column.unsqueeze(-2).unbind(-3) for column in columns]  # C of [..., 1, out or 1]
    nonzero = [[j for j in range(n) if row[j] is not None] for row in update.carry]
    one, nil = torch.ones_like(by_token[0][0]), torch.zeros_like(by_token[0][0])
    slots = [torch.cat([one if j == m else nil for j in range(n)], dim=-2) for m in range(n)]
    seen = []
    for t in range(chunk):
        kept = [
            reduce(torch.add, [by_token[m * n + j][t] * slots[j] for j in nonzero[m]])
            for m in range(n)
        ]
        slots = [torch.cat([kept[m], by_token[n * n + m][t]], dim=-2) for m in range(n)]
        seen.append(functional.pad(slots[0], (0, 0, 0, chunk - 1 - t)))
    read, end = torch.stack(seen, dim=-3), torch.stack(slots, dim=-3)
    return Coefficients(
        read_carry=read[..., :n, :],
        read_write=read[..., n:, :],
        end_carry=end[..., :n, :],
        end_write=end[..., n:, :],
    )

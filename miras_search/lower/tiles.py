"""How a sequence is cut into chunks of tokens that share an anchor, and into tiles that are
computed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def segments(offset: int, tokens: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, length, count): the rest of an open chunk, whole chunks, the start of the last."""
    head = min(-offset % size, tokens)
    body, tail = divmod(tokens - head, size)
    for start, length, count in ((0, head, 1), (head, size, body), (tokens - tail, tail, 1)):
        if length and count:
            yield start, length, count


def fold(x: Tensor, start: int, length: int, count: int, dim: int = 2) -> Tensor:
    """Tokens of a dimension as pieces, `[..., count, length, ...]`; a scalar as it is."""
    if x.dim() == 0:
        return x
    if length * count < x.shape[dim]:  # the backward pass of a part writes the whole
        x = x.narrow(dim, start, length * count)
    return x.unflatten(dim, (count, length))


def each(x: Tensor, count: int) -> Sequence[Tensor]:
    """One tensor for each piece `[B, H, ...]`; a scalar is repeated.

    Taken apart once, before the loop: the backward of a slice allocates the whole tensor.
    """
    return x.unbind(2) if x.dim() else (x,) * count

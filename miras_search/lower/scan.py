"""The carried tensors of one matrix from tile to tile of a sequence.

Autograd would keep a dozen nodes a tile. Here a tile is two or three products forward and as many
backward; what waits for no tile is left until after the loop and done for all of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from miras_search.lower.function import Function
from miras_search.lower.products import sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def scan(
    carry: Tensor,
    given: Tensor,
    z: Sequence[Tensor],
    keys: Sequence[Tensor],
    reads: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """What happens tile after tile to n carried tensors `[..., out, in]`.

        u    = given + sum_j reads[j] z[j]^T
        z[m] = sum_j carry[m, j] z[j] + u^T keys[m]

    Args:
        carry: `[..., tiles, n, n, 1, 1 or in]`, of which carry[m, 0] is zero for m > 0.
        given: `[..., tiles, C, out]`.
        z: what is carried into the first tile.
        keys: n of `[..., tiles, C, in]`.
        reads: as many, or none at all.

    Returns:
        u of all tiles, what is carried into each, `[..., tiles, out, in]`, and out of the last.
    """
    n, lead = len(z), given.shape[:-3]
    tensors = (x.flatten(0, len(lead) - 1) for x in (carry, given, *z, *keys, *reads))
    u, *found = _Scan.apply(n, *tensors)  # pyright: ignore
    found = [x.unflatten(0, lead) for x in found]
    return u.unflatten(0, lead), found[:n], found[n:]


class _Scan(Function):
    @staticmethod
    def forward(n: int, carry: Tensor, given: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        z, keys, reads = [*rest[:n]], rest[n : 2 * n], rest[2 * n :]
        us, states = [], []
        for i in range(given.shape[1]):
            u = given[:, i]
            for read, x in zip(reads, z, strict=False):
                u = torch.baddbmm(u, read[:, i], x.mT)
            us.append(u)
            states.append(z)
            kept = [_weighted(carry[:, i, m], z, sources(m, n)) for m in range(n)]
            z = [torch.baddbmm(x, u.mT, key[:, i]) for x, key in zip(kept, keys, strict=True)]
        u, before = torch.stack(us, 1), [torch.stack(x, 1) for x in zip(*states, strict=True)]
        return u, *before, *z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        n, carry, _, *rest = inputs
        u, *states = output[: 1 + n]
        ctx.n = n
        ctx.save_for_backward(carry, u, *states, *rest[n:])

    @staticmethod
    def backward(ctx: Any, of_u: Tensor, *of_states: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        n = ctx.n
        carry, u, *rest = ctx.saved_tensors
        states, keys, reads = rest[:n], rest[n : 2 * n], rest[2 * n :]
        before, g = of_states[:n], [*of_states[n:]]
        after, of_us = [], []
        for i in reversed(range(u.shape[1])):
            after.append(g)
            x = of_u[:, i]
            for key, y in zip(keys, g, strict=True):
                x = torch.baddbmm(x, key[:, i], y.mT)
            of_us.append(x)
            takers = ([m for m in range(n) if j in sources(m, n)] for j in range(n))
            g = [
                before[j][:, i] + _weighted(carry[:, i, :, j], g, mine)
                for j, mine in enumerate(takers)
            ]
            for j, read in enumerate(reads):
                g[j] = torch.baddbmm(g[j], x.mT, read[:, i])
        of_given = torch.stack(of_us[::-1], 1)
        moved = [torch.stack(x[::-1], 1) for x in zip(*after, strict=True)]
        none = torch.zeros_like(carry[:, :, 0, 0])
        of_carry = [
            [
                (moved[m] * states[j]).sum_to_size(none.shape) if j in sources(m, n) else none
                for j in range(n)
            ]
            for m in range(n)
        ]
        return (
            None,
            torch.stack([torch.stack(row, 2) for row in of_carry], 2),
            of_given,
            *g,
            *(u @ x for x in moved),
            *(of_given @ x for x, _ in zip(states, reads, strict=False)),
        )


def _weighted(weights: Tensor, z: Sequence[Tensor], which: Sequence[int]) -> Tensor:
    """The sum of weights[:, j] z[j] over some j."""
    first, *others = which
    found = weights[:, first] * z[first]
    for j in others:
        found = torch.addcmul(found, weights[:, j], z[j])
    return found

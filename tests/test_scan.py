"""The scan over tiles against a loop of its two equations, with both derivatives."""

import pytest
import torch

from miras_search.lower.scan import scan


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("reading", [False, True])
def test_scan(n: int, columns: bool, reading: bool):
    torch.manual_seed(0)
    tiles, tokens, out, width = 3, 4, 2, 3
    takes = torch.ones(n, n, 1, 1, dtype=torch.float64)
    takes[1:, 0] = 0
    carry = random(2, 1, tiles, n, n, 1, width if columns else 1)
    given = random(2, 1, tiles, tokens, out)
    z = [random(2, 1, out, width) for _ in range(n)]
    keys = [random(2, 1, tiles, tokens, width) for _ in range(n)]
    reads = [random(2, 1, tiles, tokens, width) for _ in range(n if reading else 0)]
    inputs = (carry, given, *z, *keys, *reads)

    def run(carry: torch.Tensor, given: torch.Tensor, *rest: torch.Tensor):
        u, before, after = scan(carry * takes, given, rest[:n], rest[n : 2 * n], rest[2 * n :])
        return u, *before, *after

    now, us, before = z, [], []
    for i in range(tiles):
        u = given[:, :, i] + sum(r[:, :, i] @ x.mT for r, x in zip(reads, now, strict=False))
        us.append(u)
        before.append(now)
        now = [
            sum((carry * takes)[:, :, i, m, j] * now[j] for j in range(n)) + u.mT @ keys[m][:, :, i]
            for m in range(n)
        ]
    expected = (torch.stack(us, 2), *(torch.stack(x, 2) for x in zip(*before, strict=True)), *now)
    for x, y in zip(run(*inputs), expected, strict=True):
        torch.testing.assert_close(x, y)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)

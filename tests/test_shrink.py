"""Soft thresholding with a backward pass of its own against the loop it stands for."""

import pytest
import torch

from miras_search.retention.base import Retention
from miras_search.retention.elastic_net import ElasticNet


@pytest.mark.parametrize(
    "side", [(1, 1), (3, 1), (1, 4), ()], ids=["head", "rows", "columns", "fixed"]
)
def test_all_tokens_at_once_settle_as_one_by_one(side):
    """Values and gradients in float64, with entries that are cut off and come back."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    gate, lead = ElasticNet(sparsity=0.5), (2, 2, 9)
    shape = (*lead, *side) if side else ()
    leaves = [
        random(2, 2, 3, 4) - 0.5,  # the state
        random(*lead, 3, 4) - 0.5,  # pushes
        0.5 + random(*shape) / 2,  # what is kept
        0.4 * random(*shape) + 0.1,  # steps
    ]
    results = []
    for settle_all in (Retention.settle_all, ElasticNet.settle_all):
        state, pushes, retain, step = (x.clone().requires_grad_() for x in leaves)
        states = settle_all(gate, state, pushes, retain, {"step": step})
        weights = torch.arange(states.numel(), dtype=torch.float64).view_as(states).cos()
        (states * weights).sum().backward()
        results.append((states, state.grad, pushes.grad, retain.grad, step.grad))
    slow, fast = results
    cut = (slow[0] == 0).double().mean()
    assert 0.1 < cut < 0.9
    assert ((slow[0][:, :, :-1] == 0) & (slow[0][:, :, 1:] != 0)).any()
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)

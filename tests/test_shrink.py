"""Soft thresholding with a backward pass of its own against the loop it stands for."""

import pytest
import torch
from torch.func import vmap

from miras_search.layer import memorize
from miras_search.lower.shrink import shrink
from miras_search.nn.mixer import Mixer
from miras_search.retention.base import Retention
from miras_search.retention.elastic_net import ElasticNet
from miras_search.testing import make_inputs
from miras_search.variant import Variant


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


def test_its_gradient_has_a_gradient():
    """Of a sum as well, through what was kept for the backward pass; kinks are far from any step
    that is tried."""
    torch.manual_seed(0)
    state, pushes = torch.randn(1, 2, 2, 3).double(), torch.randn(1, 2, 4, 2, 3).double()
    retain, by = torch.rand(1, 2, 4, 1, 1).double(), 0.3 * torch.rand(1, 2, 4, 1, 1).double()
    leaves = [x.requires_grad_() for x in (state, pushes, retain, by)]
    assert torch.autograd.gradcheck(shrink, leaves)
    assert torch.autograd.gradgradcheck(shrink, leaves)
    assert (shrink(*leaves) == 0).any()


@pytest.mark.parametrize("lowering", ["reference", "chunked"])
def test_second_derivatives_of_a_variant(lowering):
    """Of a gate, of the gradient of a plain sum: by the one and the other lowering."""
    axes = {"memory": "matrix", "bias": "dot", "retention": "elastic_net", "algorithm": "gd"}
    variant = Variant.from_dict(axes)
    given = make_inputs(variant, 6).map(lambda x: x.clone().requires_grad_())

    def of_step(how):
        y, _ = memorize(variant, given.q, given.k, given.v, given.gates, given.weights, None, how)
        (first,) = torch.autograd.grad(y.sum(), given.v, create_graph=True)
        return torch.autograd.grad(first.square().sum(), given.gates["step"])[0]

    torch.testing.assert_close(of_step(lowering), of_step("reference"))


def test_sequences_are_mapped():
    axes = {"memory": "mlp", "bias": "l2", "retention": "elastic_net", "algorithm": "gd"}
    layer = Mixer(Variant.from_dict(axes | {"chunk": 4, "heads": 2}), 8).double()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    found = vmap(lambda one: layer(one[None])[0][0])(x)
    torch.testing.assert_close(found, layer(x)[0])

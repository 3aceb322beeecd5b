"""Chunks computed again in the backward pass: the same numbers, and nothing kept between."""

import gc
import weakref

import pytest
import torch

from miras_search.errors import UserError
from miras_search.lower import recomputed as recomputing
from miras_search.lower.recomputed import recomputed
from miras_search.recipe import Recipe
from miras_search.testing import make_inputs, run
from miras_search.testing import variant as conformance
from miras_search.testing.cases import pairs
from miras_search.variant import Variant

TITANS = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}


@pytest.mark.parametrize(
    "axes",
    [
        TITANS,
        TITANS | {"bias": "huber", "retention": "kl"},
        TITANS | {"algorithm": {"kind": "muon", "window": 3}},
        TITANS | {"retention": "elastic_net", "memory": "gated_mlp"},
        TITANS | {"retention": {"kind": "l2", "at": "decayed", "per": "channel"}},
        TITANS | {"memory": "matrix", "bias": "lp"},
    ],
    ids=lambda axes: "-".join(str(x) for x in axes.values()),
)
def test_recomputed_is_chunked(axes):
    """Two calls that end inside a chunk: values and gradients to the last digit but rounding."""
    variant = Variant.from_dict(axes | {"chunk": 4})
    inputs = make_inputs(variant, 10)
    one, two = (
        run(variant, inputs, how, splits=(7,), gradients=True) for how in ("chunked", "recomputed")
    )
    assert torch.equal(two.y, one.y)
    assert one.gradients
    torch.testing.assert_close(two.gradients, one.gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("variant", pairs(chunk=4, heads=2), ids=str)
def test_it_conforms_as_every_lowering_does(variant, monkeypatch):
    monkeypatch.setattr(conformance, "LOWERINGS", ("reference", "recomputed"))
    conformance.check_variant(variant)


def test_what_is_computed_on_the_way_is_not_kept():
    """A product inside the function dies with the forward pass, and its gradient is right."""
    inside = []

    def f(data):
        product = data["a"].sin() * data["b"]
        inside.append(weakref.ref(product))
        return {"y": [product.square() * data["n"]]}

    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    (y,) = recomputed(f)({"a": a, "b": b, "n": 3})["y"]
    gc.collect()
    assert inside[0]() is None
    y.sum().backward()
    assert len(inside) == 2
    wanted = torch.autograd.grad(3 * (a.sin() * b).square().sum(), (a, b))
    torch.testing.assert_close((a.grad, b.grad), wanted)


@pytest.mark.parametrize("algorithm", ["momentum", "muon"])
def test_no_more_than_a_state_is_kept_of_a_chunk(algorithm, monkeypatch):
    """A view of the last token's would keep those of all tokens of a tile."""
    kept = []
    forward = recomputing._Again.forward

    def noted(ctx, run, *tensors):
        found = forward(ctx, run, *tensors)
        kept.extend((x.numel(), x.untyped_storage().nbytes() // x.element_size()) for x in found)
        return found

    monkeypatch.setattr(recomputing._Again, "forward", noted)
    variant = Variant.from_dict(TITANS | {"algorithm": algorithm, "chunk": 8})
    run(variant, make_inputs(variant, 24), "recomputed")
    assert kept
    assert all(held == own for own, held in kept)


def test_it_excludes_compiling():
    with pytest.raises(UserError, match="compile and recompute exclude each other"):
        Recipe.from_dict({"task": "mqar", "compile": True, "recompute": True})
    with pytest.raises(UserError, match=r"^command line 'recompute=true': compile and recompute"):
        Recipe.load("bytes", ["compile=true", "recompute=true"])


def test_what_it_was_given_is_freed_by_the_backward_pass():
    x = torch.ones(3, requires_grad=True)
    given = x.exp()
    inside = weakref.ref(given)
    (y,) = recomputed(lambda a: (a.square(),))(given)
    del given
    y.sum().backward()
    gc.collect()
    assert inside() is None


def test_its_gradient_has_a_gradient():
    """f(x) x for f(x, x^2) = x^3 x^2: the second derivative at 2 is 30 * 2^4."""
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (f,) = recomputed(lambda a, b: (a**3 * b,))(x, x**2)
    (g,) = torch.autograd.grad(f * x, x, create_graph=True)
    assert g.item() == 6 * 2**5
    assert torch.autograd.grad(g, x)[0].item() == 30 * 2**4


def test_it_is_computed_again_under_the_autocast_of_the_first_time():
    """bfloat16 keeps 8 bits of the product, float32 all of these."""
    x = torch.full((2, 2), 1 + 2**-10, requires_grad=True)
    (y,) = recomputed(lambda a: ((a @ a).square(),))(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        y.sum().backward()
    wanted = torch.autograd.grad((x @ x).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted)


def test_what_depends_on_nothing_has_no_gradient():
    x = torch.ones(2, requires_grad=True)
    (y,) = recomputed(lambda a: (2 * a.detach(),))(x)
    y.sum().backward()
    assert x.grad is None

"""Sums of products in one buffer against the sums that they are, with both derivatives."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from miras_search.lower import products
from miras_search.lower.call import prepare
from miras_search.lower.products import moved, sum_of_products
from miras_search.nn.mixer import Mixer
from miras_search.testing import make_inputs, run, variants
from miras_search.variant import Variant


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True, params=["in one buffer", "few entries"])
def seed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of doing it."""
    torch.manual_seed(0)
    if request.param == "in one buffer":
        monkeypatch.setattr(products, "FEW", 0)


def test_sum_of_products():
    factors = [x for p in (1, 2, 5) for x in (random(2, 3, 4, p), random(2, 3, p, 3))]

    def run(*given: torch.Tensor) -> torch.Tensor:
        return sum_of_products(*zip(given[::2], given[1::2], strict=True))

    expected = sum(a @ b for a, b in zip(factors[::2], factors[1::2], strict=True))
    torch.testing.assert_close(run(*factors), expected)
    assert torch.autograd.gradcheck(run, factors)
    assert torch.autograd.gradgradcheck(run, factors)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("side", ["head", "rows", "columns"])
@pytest.mark.parametrize("own", ["u", "h"])
def test_moved(n: int, side: str, own: str):
    """Tensor m takes from all, and from the state (number 0) only if it is the state."""
    out, width = 3, 2
    last = {"head": (1, 1), "rows": (out, 1), "columns": (1, width)}[side]
    takes = torch.ones(n, n, 1, 1, dtype=torch.float64)
    takes[1:, 0] = 0
    carry = random(2, 1, n, n, *last)
    z = [random(2, 1, out, width) for _ in range(n)]
    u = [random(2, 1, 4, out) for _ in range(n if own == "u" else 1)]
    h = [random(2, 1, 4, width) for _ in range(n if own == "h" else 1)]

    def run(carry: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z, u, h = rest[:n], rest[n : n + len(us)], rest[n + len(us) :]
        return tuple(moved(carry * takes, z, u, h))

    us = u
    given = (carry, *z, *u, *h)
    for m, found in enumerate(run(*given)):
        expected = u[m % len(u)].mT @ h[m % len(h)]
        for j in range(n):
            expected = expected + (carry * takes)[:, :, m, j] * z[j]
        torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


def test_what_nothing_came_back_to():
    """Of the last tile only the state may be looked at, or only a sum."""
    carry = random(1, 1, 2, 2, 1, 1)
    z, u, h = [random(1, 1, 3, 2), random(1, 1, 3, 2)], [random(1, 1, 4, 3)], [random(1, 1, 4, 2)]
    for m in (0, 1):
        found = moved(carry, z, u, h)[m]
        grads = torch.autograd.grad(found.sum(), [carry, *z, *u, *h], allow_unused=True)
        again = carry[:, :, m, 1] * z[1] + u[0].mT @ h[0]
        if m == 0:
            again = again + carry[:, :, 0, 0] * z[0]
        expected = torch.autograd.grad(again.sum(), [carry, *z, *u, *h], allow_unused=True)
        for x, y in zip(grads, expected, strict=True):
            torch.testing.assert_close(x, y)


def test_matrices_that_move_alike_share_their_gates():
    """What is made of gates is then made once; one gate of a matrix's own, and it is not."""
    axes = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "gd"}
    variant = Variant.from_dict(axes)
    x = torch.randn(2, 5, 3, 4)
    gates = {name: torch.rand(2, 5, 3) for name in ("step", "retention")}
    weights = {"W1": torch.randn(3, 16, 4), "W2": torch.randn(3, 4, 16)}

    def of(gates: dict[str, torch.Tensor]) -> dict:
        return prepare(variant, x, x, x, gates, weights, None).weight_gates

    shared = of(gates)
    assert shared["W1"] is shared["W2"]
    own = of(gates | {"step.W1": torch.rand(2, 5, 3)})
    torch.testing.assert_close(own["W2"]["step"], shared["W2"]["step"])
    assert not torch.equal(own["W1"]["step"], shared["W1"]["step"])
    with pytest.raises(ValueError, match=r"gate 'step' has shape \(2, 5, 3, 16\)"):
        of(gates | {"step": torch.rand(2, 5, 3, 16)})


@pytest.mark.parametrize(
    "variant", [v for v in variants(chunk=4) if v.has_causal_coefficients], ids=str
)
def test_every_kind_by_either(variant: Variant):
    """Outputs, state and gradients of two calls that end inside a chunk, against the token loop."""
    inputs = make_inputs(variant, 10)
    found, expected = (
        run(variant, inputs, how, splits=(7,), gradients=True) for how in ("chunked", "reference")
    )
    torch.testing.assert_close(found.tensors(), expected.tensors(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("memory", "chunk"), [("mlp", 4), ("matrix", 1)])
@pytest.mark.parametrize("algorithm", ["gd", "momentum"])
def test_transforms_of_torch_func(memory: str, chunk: int, algorithm: str):
    """The gradient of each sequence at once, against autograd of one after another."""
    axes = {"memory": memory, "bias": "l2", "retention": "l2", "algorithm": algorithm}
    layer = Mixer(Variant.from_dict(axes | {"chunk": chunk, "heads": 2}), 8).double()
    x = torch.randn(3, 10, 8, dtype=torch.float64)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, weights, (x[None],))[0].square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for i in range(len(x)):
        layer.zero_grad()
        layer(x[i : i + 1])[0].square().sum().backward()
        for name, p in layer.named_parameters():
            torch.testing.assert_close(found[name][i], p.grad)

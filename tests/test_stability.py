"""Long hostile input at the largest steps that a range allows: every number stays finite."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from miras_search import registry
from miras_search.layer import memorize
from miras_search.memory.base import ParametricMemory
from miras_search.stability import caution
from miras_search.testing import combinations, make_inputs, pairs, variants
from miras_search.variant import Variant

TOKENS, WIDTH = 2000, 4
STREAMS = ("random", "identical", "zero", "large", "alternating")
END = 1 - 1e-6
"""How near to its ends a gate comes in float32."""


def stream(name):
    """Unit keys and values `[1, TOKENS, 1, WIDTH]`."""
    rng = torch.Generator().manual_seed(STREAMS.index(name))
    k, v = (torch.randn(1, TOKENS, 1, WIDTH, generator=rng) for _ in range(2))
    k = normalize(k, dim=-1)
    if name in ("identical", "alternating"):
        k = k[:, :1].expand_as(k)
    if name == "alternating":
        sign = torch.tensor([1.0, -1.0]).repeat(TOKENS // 2)
        v = v[:, :1] * sign[None, :, None, None]
    return k, v * {"zero": 0.0, "large": 1e3}.get(name, 1.0)


def largest(variant, momentum, kept, second):
    """Every coefficient that is not fixed where it writes most, at a momentum, a retention and the
    lower or upper end of a second moment."""
    declared = {c.name: c for c in variant.coefficients()}
    values = {}
    for name, c in declared.items():
        high = 10.0 if math.isinf(c.high) else c.high * END
        values[name] = max(kept, c.low + 1 - END) if c.neutral == 1 else high
    given = {"momentum": momentum, "second": second}
    values |= {
        n: max(1 - END, min(x, declared[n].high * END)) for n, x in given.items() if n in values
    }
    values |= {name: c.source for name, c in declared.items() if c.fixed}
    return {name: c.among(values[name], values.get) for name, c in declared.items() if not c.fixed}


def check_finite(variant, momentum=0.9, kept=END, second=END):
    pairs_ = [stream(name) for name in STREAMS]
    k, v = (torch.cat(x) for x in zip(*pairs_, strict=True))
    writes = variant.algorithm.writes
    q, k, v = k, k.repeat_interleave(writes, 1), v.repeat_interleave(writes, 1)
    gates = {
        n: torch.full(k.shape[:3], x) for n, x in largest(variant, momentum, kept, second).items()
    }
    weights = None
    if isinstance(variant.memory, ParametricMemory):
        rng = torch.Generator().manual_seed(0)
        std = variant.memory.initial_std(WIDTH, WIDTH)
        weights = {
            m: variant.retention.feasible(torch.randn(1, *shape, generator=rng) * std[m])
            for m, shape in variant.memory.matrices(WIDTH, WIDTH).items()
        }
    with torch.no_grad():
        y, state = memorize(variant, q, k, v, gates, weights)
    for name, x in {"outputs": y, **state.tensors}.items():
        for i, told in enumerate(STREAMS):
            assert x[i].isfinite().all(), f"{variant}: {name} after {told} input"


def calm(found):
    """Those of which nothing is said."""
    return [v for v in found if not caution(v)]


@pytest.mark.parametrize("variant", calm(pairs(chunk=16)), ids=str)
def test_a_pair_of_kinds_stays_finite(variant):
    check_finite(variant, kept=0.0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 16, 64])
@pytest.mark.parametrize("momentum", [0.3, 0.6, 0.9, 0.99])
def test_momentum_stays_finite(momentum, chunk, order):
    algorithm = {"kind": "momentum", "order": order}
    for memory in ("matrix", "mlp"):
        axes = {"memory": memory, "bias": "l2", "retention": "l2", "algorithm": algorithm}
        check_finite(Variant.from_dict(axes | {"chunk": chunk}), momentum)


@pytest.mark.parametrize("q", [2.05, 2.2, 4.0])
def test_lq_begins_at_zero_in_single_precision(q):
    """Where what it shows of a small state is steep, though its floor is below all such numbers."""
    axes = {"memory": "matrix", "bias": "l2", "retention": {"kind": "lq", "q": q}}
    variant = Variant.from_dict(axes | {"algorithm": "gd"})
    inputs = make_inputs(variant, 5).map(lambda x: x.float())
    x = inputs.k.requires_grad_()
    y, _ = memorize(variant, inputs.q, x, inputs.v, inputs.gates, None)
    (g,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert g.isfinite().all()
    assert y.abs().max() > 0


@pytest.mark.parametrize("form", [{"q": 4.0}, {"form": "exact", "q": 1.5}], ids=str)
def test_lq_stays_finite_while_it_keeps_nearly_everything(form):
    for memory in ("matrix", "mlp"):
        axes = {"memory": memory, "bias": "l2", "retention": {"kind": "lq", **form}}
        check_finite(Variant.from_dict(axes | {"algorithm": "gd", "chunk": 16}))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.5, 0.99])
@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("variant", calm(pairs()), ids=str)
def test_a_pair_stays_finite_at_other_chunks(variant, chunk, momentum):
    for kept in (0.0, 0.5, 0.9, END):
        check_finite(variant.replace(chunk=chunk), momentum, kept)


@pytest.mark.slow
@pytest.mark.parametrize("memory", registry.kinds("memory"))
def test_every_combination_stays_finite(memory):
    for variant in calm(combinations(chunk=16)):
        if variant.memory.kind == memory:
            check_finite(variant)
            check_finite(variant, kept=0.0, second=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", calm(variants(chunk=16)), ids=str)
def test_a_setting_stays_finite(variant):
    for kept in (0.0, 0.9, END):
        check_finite(variant, kept=kept)


STEEP = {
    "memory": "matrix",
    "bias": {"kind": "lp", "p": 3.0},
    "retention": "none",
    "algorithm": "gd",
}


def test_what_is_said_to_diverge_does_and_clipping_ends_it():
    steep = Variant.from_dict(STEEP)
    assert "no step is stable" in (caution(steep) or "")
    with pytest.raises(AssertionError, match="after"):
        check_finite(steep, momentum=0.9)
    clipped = Variant.from_dict(STEEP | {"algorithm": {"kind": "gd", "clip": 1.0}})
    assert caution(clipped) is None
    check_finite(clipped, momentum=0.9)


def test_clipping_writes_however_large_a_gradient_is():
    """Beside a key of zero, and where squares of the gradient are above all float32 numbers."""
    axes = {"memory": "matrix", "bias": {"kind": "lp", "p": 8.0}, "retention": "none"}
    variant = Variant.from_dict(axes | {"algorithm": {"kind": "gd", "clip": 1.0, "step": 0.5}})
    k = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])[None, :, None].requires_grad_()
    v = torch.full((1, 3, 1, 2), 1e4)
    y, state = memorize(variant, k, k, v, {}, None)
    assert state.tensors["weights/W"].norm().item() == pytest.approx(1.0)  # two writes of 1/2
    y.sum().backward()
    assert k.grad.isfinite().all()

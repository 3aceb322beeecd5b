"""Calls of the kernels of flash-linear-attention: by loops of what they are documented to compute,
and on a GPU by the kernels themselves."""

import sys
from types import ModuleType

import pytest
import torch

from miras_search.layer import memorize
from miras_search.lower import kernels
from miras_search.lower.call import prepare
from miras_search.testing import close, make_inputs
from miras_search.variant import Variant


def decayed(state, g):
    """A state `[B, H, K, V]` after log decays `[B, H]` or `[B, H, K]`."""
    return g.exp()[..., None, None] * state if g.dim() == 2 else g.exp()[..., None] * state


def gated(q, k, v, g, scale, initial_state, output_final_state, beta=None):
    """S = exp(g) S + k v^T, or with beta the delta rule S = S' + beta k (v - S'^T k)^T for
    S' = exp(g) S; o = scale S^T q. Inputs are `[B, T, H, ...]`."""
    assert output_final_state
    state, outputs = initial_state, []
    for t in range(q.shape[1]):
        state, write = decayed(state, g[:, t]), v[:, t]
        if beta is not None:
            write = beta[:, t, :, None] * (write - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + k[:, t, :, :, None] * write[..., None, :]
        outputs.append(scale * torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, dim=1), state


TAKES = {
    # Whether a gate has an entry for each column, and whether there is a beta.
    "chunk_simple_gla": (False, False),
    "chunk_gla": (True, False),
    "chunk_gated_delta_rule": (False, True),
    "chunk_kda": (True, True),
}

COLUMNS = {"kind": "l2", "per": "input"}
AT_DECAYED = {"kind": "l2", "at": "decayed"}
FIT = {
    "linear attention": (("dot", "none", "gd"), "chunk_simple_gla"),
    "mamba": (("dot", "l2", "gd"), "chunk_simple_gla"),
    "gla": (("dot", COLUMNS, "gd"), "chunk_gla"),
    "steps of columns": (("dot", "l2", {"kind": "gd", "per": "input"}), "chunk_simple_gla"),
    "steps of rows": (("dot", "l2", {"kind": "gd", "per": "channel"}), "chunk_simple_gla"),
    "delta rule": (("l2", "none", "gd"), "chunk_gated_delta_rule"),
    "error at the old memory": (("l2", "l2", "gd"), "chunk_gated_delta_rule"),
    "gated delta rule": (("l2", AT_DECAYED, "gd"), "chunk_gated_delta_rule"),
    "kda": (("l2", AT_DECAYED | COLUMNS, "gd"), "chunk_kda"),
    "longhorn": (("l2", "l2", "implicit"), "chunk_gated_delta_rule"),
    "normalised": (("l2", "l2", {"kind": "gd", "normalize": True}), "chunk_gated_delta_rule"),
    "several writes": (("l2", "l2", {"kind": "multi_step", "n": 2}), "chunk_gated_delta_rule"),
}
OTHERS = {
    "momentum": ("l2", "l2", "momentum"),
    "rows that decay": ("dot", {"kind": "l2", "per": "channel"}, "gd"),
    "columns that decay after the error": ("l2", COLUMNS, "gd"),
    "errors of rows": ("l2", "l2", {"kind": "gd", "per": "channel"}),
    "not linear": ("l1", "l2", "gd"),
}


def variant(bias, retention, algorithm):
    return Variant.from_dict(
        {"memory": "matrix", "bias": bias, "retention": retention, "algorithm": algorithm}
    )


def planned(v, inputs, state=None):
    call = prepare(v, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights, state)
    return call, kernels.planned(call)


@pytest.mark.parametrize(("axes", "kernel"), FIT.values(), ids=FIT)
def test_a_kernel_is_given_what_makes_it_the_same_function(axes, kernel):
    """From a state that is not zero, in value and gradient, in float64."""
    v = variant(*axes)
    before, inputs = make_inputs(v, 5), make_inputs(v, 7, seed=1)
    _, state = memorize(v, before.q, before.k, before.v, before.gates, before.weights)
    results = []
    for fast in (False, True):
        leaves = [x.clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
        gates = {name: g.clone().requires_grad_() for name, g in inputs.gates.items()}
        if fast:
            call = prepare(v, *leaves, gates, None, state)
            found = kernels.planned(call)
            assert found is not None
            assert found.kernel == kernel
            columns, corrects = TAKES[kernel]
            assert found.arguments["g"].dim() == 3 + columns
            assert ("beta" in found.arguments) == corrects
            y, after = kernels.finished(call, *gated(**found.arguments))
            y = y.transpose(1, 2)[:, v.algorithm.writes - 1 :: v.algorithm.writes]
        else:
            y, after = memorize(v, *leaves, gates, None, state, "reference")
        derived = torch.autograd.grad(y.square().sum(), [*leaves, *gates.values()])
        results.append((y, *after.tensors.values(), *derived))
        assert after.position == 12 * v.algorithm.writes
    for one, two in zip(*results, strict=True):
        close(two, one, f"{v} by {kernel}", 1e-9)


@pytest.mark.parametrize("axes", OTHERS.values(), ids=OTHERS)
def test_what_no_kernel_computes_is_left_to_us(axes):
    v = variant(*axes)
    call, found = planned(v, make_inputs(v, 3))
    assert found is None
    assert not kernels.usable(call)


@pytest.mark.parametrize(
    ("capability", "triton", "right"),
    [
        ((9, 0), "3.3.1", True),
        ((9, 0), "3.4.0", False),
        ((9, 0), "3.7.0", False),
        ((9, 0), "3.7.1", True),
        ((8, 0), "3.6.0", True),
    ],
)
def test_kernels_are_left_alone_where_triton_compiles_them_wrongly(
    capability, triton, right, monkeypatch
):
    monkeypatch.setattr(kernels, "version", {"triton": triton}.__getitem__)
    assert kernels._right(capability) == right


def test_amd_has_no_version_of_triton_to_look_at(monkeypatch):
    """Its wheels have another name; its newest cards report the capability of a Hopper."""
    monkeypatch.setattr(kernels, "version", lambda name: pytest.fail(f"asked for {name}"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert kernels._right((9, 4))


def test_a_second_derivative_through_a_kernel_is_refused(monkeypatch):
    """The kernel here is a loop: only that the gradient is let through once is looked at."""
    ops = ModuleType("fla.ops")
    monkeypatch.setitem(sys.modules, "fla", ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", ops)
    sys.modules["fla"].ops = ops  # pyright: ignore[reportAttributeAccessIssue]
    axes, kernel = next(iter(FIT.values()))
    setattr(ops, kernel, gated)
    v = variant(*axes)
    inputs = make_inputs(v, 5)
    q, k = (x.clone().requires_grad_() for x in (inputs.q, inputs.k))
    call = prepare(v, q, k, inputs.v, inputs.gates, inputs.weights, None)
    total = kernels.run(call)[0].square().sum()
    slow = memorize(v, q, k, inputs.v, inputs.gates, inputs.weights, None, "chunked")[0]
    found = torch.autograd.grad(total, (q, k), retain_graph=True)
    for one, two in zip(found, torch.autograd.grad(slow.square().sum(), (q, k)), strict=True):
        close(one, two, kernel, 1e-9)
    with pytest.raises(RuntimeError, match="no second derivatives: expected lowering='chunked'"):
        torch.autograd.grad(total, (q, k), create_graph=True)


@pytest.mark.skipif(
    not torch.cuda.is_available() or not kernels._installed(torch.device("cuda")),
    reason="needs a GPU and flash-linear-attention, with a Triton that compiles it rightly",
)
@pytest.mark.parametrize(("axes", "kernel"), FIT.values(), ids=FIT)
def test_the_kernels_themselves(axes, kernel):
    """In float32, of which the kernels keep a part in their products: outputs, the state and the
    gradients of everything that is given."""
    v = variant(*axes)
    inputs = make_inputs(v, 100).map_tokens(lambda x: x.float().cuda().requires_grad_())
    call, found = planned(v, inputs)
    assert found is not None
    assert kernels.usable(call)
    y, after = kernels.run(call)
    y = y.transpose(1, 2)[:, v.algorithm.writes - 1 :: v.algorithm.writes]
    start = prepare(v, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights, None).state
    given = (inputs.q, inputs.k, inputs.v, inputs.gates, None, start)
    leaves = [inputs.q, inputs.k, inputs.v, *inputs.gates.values()]
    results = []
    for outputs, state in ((y, after), memorize(v, *given, "chunked")):
        held = [*state.tensors.values()]
        total = outputs.square().sum() + sum(x.square().sum() for x in held)
        results.append((outputs, *held, *torch.autograd.grad(total, leaves)))
    for one, two in zip(*results, strict=True):
        close(one, two, kernel, 1e-2)

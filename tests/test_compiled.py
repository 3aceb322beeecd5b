"""Chunks through torch.compile: the same numbers, and a way back."""

import logging
from functools import partial

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch import config as functorch

from miras_search.layer import memorize
from miras_search.lower.compiled import KINDS, MODELS, begin, compiled, failures, seconds
from miras_search.plan import choose_lowering
from miras_search.testing import close, make_inputs, run
from miras_search.testing import variant as conformance
from miras_search.testing.cases import pairs, variants
from miras_search.variant import Variant

MOMENTUM = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
MIRROR = {"memory": "mlp", "bias": "huber", "retention": "kl", "algorithm": "gd"}
ROWS = {"memory": "matrix", "bias": "l2", "retention": {"kind": "l2", "per": "channel"}}
ROWS |= {"algorithm": "gd"}
MUON = MIRROR | {"algorithm": "muon"}
DOT = {"memory": "vector", "bias": "dot", "retention": "l2_local_global", "algorithm": "gd"}
NEWTON = MOMENTUM | {"memory": "matrix", "algorithm": "newton"}
ENTROPY = MOMENTUM | {"retention": "kl"}


def compiles(variant):
    return choose_lowering(variant, "compiled").name == "compiled"


@pytest.fixture(autouse=True)
def _nothing_failed():
    yield
    failures().clear()


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (MOMENTUM, {"tokens": 10}),
        (MIRROR, {"tokens": 10}),
        (DOT, {"tokens": 70}),
        (NEWTON, {"tokens": 70}),
        (ENTROPY, {"tokens": 4, "batch": 1, "heads": 1}),
        (MUON, {"tokens": 4, "batch": 1, "heads": 1}),
    ],
)
def test_compiled_is_chunked(axes, shape, caplog):
    """Whole chunks, or tiles where the gradient looks at nothing, and a rest, in value and in
    gradient. With one sequence of one head torch's own choices had the gradients of a softmax
    wrong (pytorch #185702)."""
    variant = Variant.from_dict(axes | {"chunk": 4})
    inputs, before = make_inputs(variant, **shape), seconds()
    with caplog.at_level(logging.WARNING):
        one, two = (run(variant, inputs, how, gradients=True) for how in ("chunked", "compiled"))
    assert not caplog.messages
    assert seconds() > before
    close(two.y, one.y, "outputs", 1e-10)
    for name, x in one.state.items():
        close(two.state[name], x, name, 1e-10)
    for name, x in (one.gradients or {}).items():
        close((two.gradients or {})[name], x, f"gradient of {name}", 1e-8)


@pytest.mark.slow  # two minutes each
@pytest.mark.parametrize(
    "variant",
    # Where the gradient looks at nothing, a tile is longer than what the suite reads.
    [v for v in pairs(chunk=4, heads=2) if compiles(v) and not v.gradient_is_constant],
    ids=str,
)
def test_it_conforms_as_every_lowering_does(variant, monkeypatch):
    """The numerical gradients go backward through one graph twice, which buffers that are given to
    the backward pass to be overwritten do not allow."""
    monkeypatch.setattr(conformance, "LOWERINGS", ("reference", "compiled"))
    torch._dynamo.reset()
    counters.clear()
    with functorch.patch(donated_buffer=False):
        conformance.check_variant(variant)
    assert not failures()
    assert 4 < counters["stats"]["unique_graphs"] < KINDS


@pytest.mark.slow  # a second each
@pytest.mark.parametrize("variant", [v for v in variants(chunk=4) if compiles(v)], ids=str)
def test_every_setting_is_one_graph(variant, monkeypatch):
    """Where a graph breaks inside a derivative, nothing of it can be compiled."""
    whole = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    torch._dynamo.reset()
    counters.clear()
    run(variant, make_inputs(variant, 64 if variant.gradient_is_constant else 8), "compiled")
    assert not failures()
    assert counters["stats"]["unique_graphs"] >= 1


def test_many_models_are_compiled_one_after_another(monkeypatch):
    """Where a process would have compiled too much, what is old is forgotten; of models that come
    again nothing is."""
    forgotten = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: forgotten.append(True))
    monkeypatch.setattr("miras_search.lower.compiled._MODELS", set())
    for model in ("a", "b") * 20:
        begin(model)
    assert not forgotten
    for model in range(2 * MODELS):
        begin(str(model))
    assert len(forgotten) == 2


def test_a_process_without_memory_still_compiles():
    def full(x):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        compiled(full)(torch.ones(1))
    assert not failures()


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog):
    def broken(function, **_):
        def fast(*args):
            raise RuntimeError("no compiler\nat all")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    call = compiled(lambda x: x + 1)
    with caplog.at_level(logging.WARNING):
        assert [call(1), call(2)] == [2, 3]
    assert caplog.messages == ["not compiled, so slower: no compiler at all"]
    assert failures() == ["no compiler at all"]


def test_what_has_no_backward_pass_there_runs_as_it_is(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no backward pass")

    backend = aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    call, x = compiled(lambda x: x.sin()), torch.ones(3, requires_grad=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            (gradient,) = torch.autograd.grad(call(x).sum(), x)
            torch.testing.assert_close(gradient, x.cos())
    assert len(caplog.messages) == 1
    assert "no backward pass" in caplog.messages[0]


def test_a_fault_of_the_function_itself_is_raised():
    call = compiled(lambda x: x @ x)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        call(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("asked", "axes", "found"),
    [
        ("auto", MOMENTUM | {"chunk": 4}, "chunked"),
        ("auto", MOMENTUM, "chunked"),
        ("auto", MUON, "reference"),
        ("auto", MIRROR, "chunked"),
        ("auto", MOMENTUM | {"retention": {"kind": "l2", "per": "channel"}}, "chunked"),
        ("auto", ROWS | {"algorithm": {"kind": "gd", "per": "input"}}, "reference"),
        ("auto", ROWS, "chunked"),
        ("recomputed", ROWS | {"algorithm": {"kind": "gd", "per": "input"}}, "recomputed"),
        ("reference", MOMENTUM | {"chunk": 4}, "reference"),
        ("compiled", MOMENTUM, "compiled"),
        ("compiled", MIRROR | {"chunk": 4}, "compiled"),
        ("compiled", MUON | {"chunk": 4}, "compiled"),
        ("compiled", MUON, "reference"),
        ("compiled", MOMENTUM | {"memory": "matrix"}, "chunked"),
        ("recomputed", MUON, "recomputed"),
        ("recomputed", MOMENTUM | {"memory": "matrix"}, "chunked"),
        ("recomputed", MOMENTUM | {"memory": "attention"}, "chunked"),
    ],
)
def test_what_is_chosen(asked, axes, found):
    assert choose_lowering(Variant.from_dict(axes), asked).name == found


def test_what_is_exact_needs_no_compiler():
    variant = Variant.from_dict(MOMENTUM | {"memory": "matrix"})
    inputs, before = make_inputs(variant, 6), seconds()
    memorize(variant, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights, None, "compiled")
    assert seconds() == before

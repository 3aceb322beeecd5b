"""Chunks through torch.compile: the same numbers, and a way back."""

import logging

import pytest
import torch

from miras_search.layer import memorize
from miras_search.lower.compiled import compiled, seconds
from miras_search.testing import close, make_inputs, run
from miras_search.variant import Variant

MOMENTUM = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
MIRROR = {"memory": "mlp", "bias": "huber", "retention": "kl", "algorithm": "gd"}
MUON = MIRROR | {"algorithm": "muon"}


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("axes", [MOMENTUM, MIRROR])
def test_compiled_is_chunked(axes, caplog):
    """Two whole chunks and a rest, in value and in gradient."""
    variant = Variant.from_dict(axes | {"chunk": 4})
    inputs, before = make_inputs(variant, 10), seconds()
    with caplog.at_level(logging.WARNING):
        one, two = (run(variant, inputs, how, gradients=True) for how in ("chunked", "compiled"))
    assert not caplog.messages
    assert seconds() > before
    close(two.y, one.y, "outputs", 1e-10)
    for name, x in one.state.items():
        close(two.state[name], x, name, 1e-10)
    for name, x in (one.gradients or {}).items():
        close((two.gradients or {})[name], x, f"gradient of {name}", 1e-8)


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog):
    def broken(function, **_):
        def fast(*args):
            raise RuntimeError("no compiler\nat all")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    call = compiled(lambda x: x + 1)
    with caplog.at_level(logging.WARNING):
        assert [call(1), call(2)] == [2, 3]
    assert caplog.messages == ["not compiled, so slower: no compiler"]


def test_a_fault_of_the_function_itself_is_raised():
    call = compiled(lambda x: x @ x)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        call(torch.ones(2, 3))


@pytest.mark.parametrize("axes", [MOMENTUM | {"memory": "matrix"}, MUON | {"chunk": 3}])
def test_what_is_exact_or_forms_its_states_needs_no_compiler(axes):
    variant = Variant.from_dict(axes)
    inputs, before = make_inputs(variant, 6), seconds()
    memorize(variant, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights, None, "compiled")
    assert seconds() == before

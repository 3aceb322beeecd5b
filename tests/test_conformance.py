"""Every registered choice, and every legal combination, through the shipped suites."""

import pytest
import torch
from often import often

from miras_search import legality, registry
from miras_search.layer import memorize
from miras_search.lower import products
from miras_search.testing import (
    CHECKS,
    VARIANT_CHECKS,
    cases,
    check_gradients,
    combinations,
    make_inputs,
    pairs,
    run,
    variants,
)
from miras_search.testing.variant import check_shapes, check_splits
from miras_search.variant import Variant

COMPONENTS = [case for axis in registry.AXES for case in cases(axis)]
PAIRS = pairs(chunk=4)
VARIANTS = variants(chunk=4)


def names(check):
    return check.__name__.removeprefix("check_")


@pytest.mark.parametrize("case", COMPONENTS, ids=lambda c: f"{c.axis}-{c}")
def test_component(case):
    CHECKS[case.axis](case)


def test_every_kind_is_in_a_legal_combination():
    met = {(axis, c.kind) for v in combinations() for axis, c in v.axes().items()}
    assert met == {(axis, kind) for axis in registry.AXES for kind in registry.kinds(axis)}


@pytest.mark.parametrize("check", VARIANT_CHECKS, ids=names)
@pytest.mark.parametrize("variant", PAIRS, ids=str)
def test_pair(variant, check):
    check(variant)


SETTINGS = [v for v in VARIANTS if v not in PAIRS]


@pytest.mark.parametrize("variant", often(SETTINGS[::3], SETTINGS), ids=str)
def test_setting(variant):
    """Less than a pair gets: the naive loop below is the same for whole sequences."""
    check_shapes(variant)
    check_splits(variant)


@pytest.mark.parametrize("variant", often(PAIRS[::3], PAIRS), ids=str)
def test_gradients_are_numerically_right(variant):
    check_gradients(variant)


def test_gates_own_to_a_matrix_and_shared_ones_mean_the_same():
    variant = Variant.from_dict(
        {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum", "chunk": 4}
    )
    inputs = make_inputs(variant, 9)
    own = {f"{n}.{m}": g for n, g in inputs.gates.items() for m in ("W1", "W2")}
    mixed = {"step": inputs.gates["step"] / 2, **own}
    shared = run(variant, inputs).y
    for gates in (own, mixed):
        y, _ = memorize(variant, inputs.q, inputs.k, inputs.v, gates, inputs.weights)
        assert y.equal(shared)


def test_illegal_combinations_are_refused():
    """Those that the rules name, by the sentence of the rule; all others run (above)."""
    inputs = make_inputs(PAIRS[0], 3)
    refused = 0
    for memory in registry.kinds("memory"):
        for bias in registry.kinds("bias"):
            for retention in registry.kinds("retention"):
                for algorithm in registry.kinds("algorithm"):
                    chosen = (memory, bias, retention, algorithm)
                    variant = Variant.from_dict(dict(zip(registry.AXES, chosen, strict=True)))
                    if reasons := legality.reasons(variant):
                        with pytest.raises(ValueError, match=reasons[0]):
                            memorize(variant, inputs.q, inputs.k, inputs.v, {}, None)
                        refused += 1
    assert refused > 0


def test_a_zero_start_is_refused_where_nothing_can_be_learned_from_it():
    for memory in cases("memory"):
        base = {"bias": "l2", "retention": "none", "algorithm": "gd", "initial_memory": "zero"}
        stuck = getattr(memory, "learns_from_zero", True) is False
        # What a mirror map shows of zero is the same in all entries, so that hidden units stay so.
        for retention in ("none", "kl", {"kind": "bregman", "link": "sigmoid"}):
            changed = {"memory": memory.to_dict(), "retention": retention}
            reasons = legality.reasons(Variant.from_dict(base | changed))
            assert any("started at zero" in why for why in reasons) == stuck


def test_a_state_of_another_variant_or_batch_is_refused():
    base = {"memory": "matrix", "bias": "l2", "retention": "none", "chunk": 4}
    gd, momentum = (Variant.from_dict(base | {"algorithm": a}) for a in ("gd", "momentum"))
    x, step = torch.ones(2, 3, 1, 2), torch.full((2, 3, 1), 0.1)
    _, state = memorize(gd, x, x, x, {"step": step}, None)
    with pytest.raises(ValueError, match=r"expected .*momentum/W"):
        memorize(momentum, x, x, x, {"step": step, "momentum": step}, None, state)
    with pytest.raises(
        ValueError, match=r"state holds .*\(2, 1, 2, 2\).*: expected .*\(1, 1, 2, 2\)"
    ):
        memorize(gd, x[:1], x[:1], x[:1], {"step": step[:1]}, None, state)


def test_a_window_goes_on_with_gates_as_wide_as_before():
    window = {"kind": "gd", "window": 3}
    huber = {"kind": "huber", "form": "coordinate", "per": "channel"}
    variant = Variant.from_dict(
        {"memory": "matrix", "bias": huber, "retention": "none", "algorithm": window}
    )
    x, one = torch.ones(1, 3, 1, 2), torch.full((1, 3, 1), 0.1)
    gates = {"step": one, "importance": one, "delta": one}
    _, state = memorize(variant, x, x, x, gates, None)
    memorize(variant, x, x, x, gates, None, state)
    with pytest.raises(ValueError, match=r"holds .*delta': \(1, 1, 2, 1\).* \(1, 1, 2, 2\)"):
        memorize(variant, x, x, x, gates | {"delta": torch.ones(1, 3, 1, 2)}, None, state)
    less = {n: t for n, t in state.tensors.items() if "importance" not in n}
    with pytest.raises(ValueError, match=r"expected .*window/gates/importance.W"):
        memorize(variant, x, x, x, gates, None, type(state)(less, state.position))


@pytest.mark.parametrize("wrong", ["v", "gates", "weights", "state"])
def test_nothing_is_converted_on_the_way(wrong):
    variant = Variant.from_dict(
        {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
    )
    x, step, start = torch.ones(1, 3, 1, 2), torch.full((1, 3, 1), 0.1), torch.zeros(1, 2, 2)
    _, state = memorize(variant, x, x, x, {"step": step}, None)
    given = {"v": x, "gates": {"step": step}, "weights": {"W": start}, "state": None}
    doubled = {
        "v": x.double(),
        "gates": {"step": step.double()},
        "weights": {"W": start.double()},
        "state": type(state)({n: t.double() for n, t in state.tensors.items()}, state.position),
    }
    with pytest.raises(ValueError, match="expected the dtype of q"):
        memorize(variant, x, x, **(given | {wrong: doubled[wrong]}))
    elsewhere = {
        "v": x.to("meta"),
        "gates": {"step": step.to("meta")},
        "weights": {"W": start.to("meta")},
        "state": type(state)({n: t.to("meta") for n, t in state.tensors.items()}, state.position),
    }
    with pytest.raises(ValueError, match="is on meta: expected the device of q"):
        memorize(variant, x, x, **(given | {wrong: elsewhere[wrong]}))


@pytest.mark.parametrize("lowering", ["reference", "chunked"])
@pytest.mark.parametrize("axes", [{}, {"memory": "mlp"}, {"memory": "attention"}], ids=str)
def test_what_is_passed_is_used_as_it_is_under_autocast(axes, lowering, monkeypatch):
    """The backward pass, of which torch says that it does not belong there, rounds to 8 bits; sums
    of products are those of large buffers."""
    monkeypatch.setattr(products, "FEW", 0)
    base = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
    if axes.get("memory") == "attention":
        base |= {"retention": "none", "algorithm": "gd"}
        lowering = "auto"
    variant = Variant.from_dict(base | axes | {"chunk": 4})
    inputs = make_inputs(variant, 10, dtype=torch.float32)
    alone = run(variant, inputs, lowering, splits=(7,), gradients=True)
    with torch.autocast(inputs.q.device.type, torch.bfloat16):
        found = run(variant, inputs, lowering, splits=(7,), gradients=True)
    assert [*found.tensors()] == [*alone.tensors()]
    assert found.y.equal(alone.y)
    assert all(x.equal(alone.state[name]) for name, x in found.state.items())
    for name, x in found.gradients.items():
        assert (x - alone.gradients[name]).norm() < 0.05 * alone.gradients[name].norm()


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        ({"bias": {"kind": "huber", "form": "norm"}}, "delta"),
        ({"bias": "value_shift"}, "delta"),
        ({"algorithm": "newton"}, "step"),
        ({"retention": "lq"}, "retention"),
        ({}, "step"),
    ],
    ids=str,
)
def test_what_is_of_a_head_has_no_channels(axes, name):
    """Whether or not the number of channels would fit."""
    base = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
    variant = Variant.from_dict(base | axes)
    inputs = make_inputs(variant, 3)
    wide = inputs.gates | {name: inputs.gates[name][..., None].expand(2, 3, 2, 4)}
    with pytest.raises(ValueError, match=rf"gate '{name}' has .*: expected \(2, 3, 2\)$"):
        memorize(variant, inputs.q, inputs.k, inputs.v, wide, inputs.weights)


@pytest.mark.parametrize("tokens", [1, 6, 300])
@pytest.mark.parametrize("window", [1, 4, 64])
def test_no_sequence_of_attention_over_a_window(window, tokens):
    memory = {"kind": "sliding_window", "window": window}
    axes = {"memory": memory, "bias": "l2", "retention": "none", "algorithm": "gd"}
    variant = Variant.from_dict(axes)
    x = torch.ones(0, tokens, 2, 4)
    y, state = memorize(variant, x, x, x, {}, None)
    assert y.shape == x.shape
    assert memorize(variant, x, x, x, {}, None, state)[0].shape == x.shape


@pytest.mark.parametrize("algorithm", ["gd", "muon", "adam", "newton"])
def test_no_sequence_and_half_precision(algorithm):
    """A batch of none gives none; and bfloat16 is taken, to the digits that it has."""
    base = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": algorithm}
    variant = Variant.from_dict(base | {"chunk": 7})
    inputs = make_inputs(variant, 9, dtype=torch.float32)
    for lowering in ("reference", "chunked"):
        none = run(variant, inputs.map_tokens(lambda x: x[:0]), lowering)
        assert none.y.shape == (0, *inputs.v.shape[1:])
        whole = run(variant, inputs, lowering).y
        half = run(variant, inputs.map(lambda x: x.bfloat16()), lowering).y
        assert half.dtype == torch.bfloat16
        assert (half - whole).norm() < 0.1 * whole.norm()


def test_what_is_no_mapping_or_no_float_is_refused_by_name():
    variant = Variant.from_dict(
        {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
    )
    x, step = torch.ones(1, 3, 1, 2), torch.full((1, 3, 1), 0.1)
    with pytest.raises(ValueError, match="gates is a NoneType: expected a mapping"):
        memorize(variant, x, x, x, None, None)
    with pytest.raises(ValueError, match="weights is a list: expected a mapping"):
        memorize(variant, x, x, x, {"step": step}, [x])
    with pytest.raises(ValueError, match=r"k: expected a floating-point tensor, got torch.int64"):
        memorize(variant, x, x.long(), x, {"step": step}, None)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("lowering", ["reference", "chunked"])
def test_gradients_are_not_taken_in_inference_mode(lowering, chunk, monkeypatch):
    """Where some versions of torch return zeros: no memory would learn."""
    axes = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "gd", "chunk": chunk}
    variant = Variant.from_dict(axes)
    inputs = make_inputs(variant, 6)
    kind, modes = type(variant.bias), []

    def noted(name, whole):
        def call(*given):
            modes.append(torch.is_inference_mode_enabled())
            return whole(*given)

        monkeypatch.setattr(kind, name, call)

    for name in ("gradient", "loss"):
        noted(name, getattr(kind, name))
    with torch.inference_mode():
        copies = inputs.map(torch.clone)
        run(variant, copies, lowering)
    assert modes
    assert not any(modes)

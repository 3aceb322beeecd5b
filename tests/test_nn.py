"""The layers around a memory: every parameter learns, and nothing looks ahead or sideways."""

import pytest
import torch
from alone import DEEP, KINDS
from often import often
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from miras_search import legality, registry
from miras_search.component import Coefficient
from miras_search.layer import memorize
from miras_search.nn import mixer
from miras_search.nn.backbone import Backbone
from miras_search.nn.gates import Gate
from miras_search.nn.mixer import Mixer
from miras_search.nn.projection import Projection
from miras_search.nn.state import nbytes
from miras_search.plan import plan
from miras_search.size import Size
from miras_search.testing import cases, close, combinations, pairs, variants
from miras_search.variant import Variant

SIZE = Size(width=8, layers=1, mlp=1.0)
VOCABULARY = 13


def settings(variant):
    """The combination with coefficients per head and per channel, from data and learned."""
    names = {c.name for c in variant.coefficients()}
    found = [variant]
    for source in ("data", "learned"):
        for per in ("head", "channel", "input"):
            changed = {}
            for axis, component in variant.axes().items():
                fields = type(component).model_fields
                wanted = {name: source for name in fields if name in names}
                for choice in ({"per": per}, {}):
                    try:
                        given = (
                            component.model_dump() | wanted | (choice if "per" in fields else {})
                        )
                        changed[axis] = type(component)(**given)
                        break
                    except ValidationError:
                        continue
            found.append(variant.replace(**changed))
    return [v for v in dict.fromkeys(found) if not legality.reasons(v)]


def model_of(variant, size=SIZE, seed=0, dtype=torch.float64, strong=True):
    """A model whose values are large enough to exceed every threshold."""
    torch.manual_seed(seed)
    model = Backbone(variant, size, VOCABULARY).to(dtype)
    if strong:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Projection):
                    module.linear.weight *= 6
    return model


def tokens_of(batch=2, tokens=11, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, tokens), generator=rng)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens)[0]


# Hundreds of persistent tokens are slow, and a deep memory that reads them amplifies rounding.
MACROS = [macro for macro in cases("macro") if macro.persistent < 100]
ALONE = list(dict.fromkeys([*KINDS, *(DEEP.replace(macro=macro) for macro in MACROS)]))
"""Every kind beside its companions."""
ATTENDS = {"bias": "l2", "retention": "none", "algorithm": "gd"}
SQUARED = next(v for v in ALONE if v.memory.grows).replace(degree=2)
PAIRS = often(ALONE, pairs(chunk=4, heads=2))


@pytest.mark.parametrize("variant", ALONE, ids=str)
def test_every_parameter_gets_a_gradient(variant):
    for setting in settings(variant):
        model = model_of(setting, SIZE.model_copy(update={"layers": setting.macro.depth}))
        logits, _ = model(tokens_of())
        cross_entropy(logits.flatten(0, 1), tokens_of(seed=1).flatten()).backward()
        for name, parameter in model.named_parameters():
            g = parameter.grad
            assert g is not None, f"{setting}: {name} has no gradient"
            assert g.isfinite().all(), f"{setting}: the gradient of {name} is not finite"
            assert g.abs().max() > 1e-12, f"{setting}: the gradient of {name} is zero"


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 17])
@pytest.mark.parametrize("memory", registry.kinds("memory"))
def test_every_combination_takes_a_training_step(memory, every):
    """The full product of kinds (or every 17th) in both lowerings: loss, gradients and weights are
    finite."""
    mine = [v for v in combinations(chunk=4, heads=2) if v.memory.kind == memory][::every]
    for variant in mine:
        for lowering in ("reference", "chunked"):
            torch.manual_seed(0)
            model = Backbone(variant, SIZE, VOCABULARY, lowering)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            logits, _ = model(tokens_of(tokens=6))
            loss = cross_entropy(logits.flatten(0, 1), tokens_of(tokens=6, seed=1).flatten())
            loss.backward()
            optimizer.step()
            values = [loss, *(p.grad for p in model.parameters()), *model.parameters()]
            assert all(x.isfinite().all() for x in values), f"{variant}, {lowering}"
    print(f"{len(mine)} legal combinations with memory {memory}, every {every}")


@pytest.mark.parametrize("variant", PAIRS, ids=str)
def test_split_stream_equals_whole(variant):
    model, tokens = model_of(variant, Size(width=8, layers=2)), tokens_of(tokens=14)
    with torch.no_grad():
        whole, end = model(tokens)
        for splits in ((1,), (4, 8), (2, 3, 9), tuple(range(1, 14))):
            state, parts = None, []
            for piece in tokens.tensor_split(splits, dim=1):
                logits, state = model(piece, state)
                parts.append(logits)
            close(torch.cat(parts, 1), whole, f"split at {splits}")
            assert [*map(nbytes, state)] == [*map(nbytes, end)]


@pytest.mark.parametrize("variant", PAIRS, ids=str)
def test_causal_and_independent(variant):
    model, tokens = model_of(variant, Size(width=8, layers=2)), tokens_of()
    whole = logits_of(model, tokens)
    for cut in (1, 6, 8):
        other = tokens.clone()
        other[:, cut:] = (other[:, cut:] + 1) % VOCABULARY
        changed = logits_of(model, other)
        close(changed[:, :cut], whole[:, :cut], f"before token {cut}", 1e-12)
        assert not changed[:, cut].allclose(whole[:, cut])
    other = tokens.clone()
    other[1] = (other[1] + 1) % VOCABULARY
    close(logits_of(model, other)[0], whole[0], "sample 0 beside another", 1e-12)
    close(logits_of(model, tokens[:1])[0], whole[0], "sample 0 alone", 1e-12)


@pytest.mark.parametrize("variant", often(ALONE[::2], [*ALONE, *pairs(chunk=4, heads=2)]), ids=str)
def test_plan_counts_what_is_there(variant):
    """Of the whole sequence and of every layer, though the plan runs parts of them."""
    size = Size(width=8, layers=2, mlp=1.0)
    for tokens in (9, 150 if variant.affine or variant.gradient_is_constant else 30):
        counted = plan(variant, size, VOCABULARY, tokens)
        # The CPU's kernel of attention has no formula.
        attends = variant.memory.grows or any(x.span > 1 for x in variant.macro.layers(2))
        with torch.device("meta" if attends else "cpu"):
            model = Backbone(variant, size, VOCABULARY).requires_grad_(False)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                _, state = model(torch.zeros(1, tokens, dtype=torch.int64))
        assert counted.parameters == sum(p.numel() for p in model.parameters())
        held = [x for layer in state for part in layer.values() for x in part.tensors.values()]
        assert counted.state_bytes == sum(4 * x.numel() for x in held)
        assert counted.flops_per_token == counter.get_total_flops() // tokens


@pytest.mark.parametrize(
    "change",
    [
        {"conv": 0},
        {"conv": 1},
        {"qk_norm": "none"},
        {"qk_norm": "rms"},
        {"qk_norm": "l2"},
        {"heads": 1},
        {"heads": 4},
        {"chunk": 1},
        {"gate_rank": 1},
        {"initial_memory": "zero", "memory": "matrix"},
        {"initial_memory": "zero", "memory": {"kind": "mlp", "depth": 1}},
        {"degree": 2, "memory": {"kind": "mlp", "form": "plain"}},
        {"degree": 3, "memory": "matrix"},
        {"algorithm": {"kind": "multi_step", "n": 3, "per": "input"}},
        {"positions": "rotary"},
        {"positions": "rotary", "memory": "attention", **ATTENDS},
        {"positions": "rotary", "degree": 2, "memory": "matrix", "algorithm": "multi_step"},
        {"positions": "rotary", "macro": {"kind": "mac", "segment": 3}},
    ],
    ids=str,
)
def test_side_choice(change):
    variant = Variant.from_dict(DEEP.to_dict() | change)
    test_every_parameter_gets_a_gradient(variant)
    test_split_stream_equals_whole(variant)
    test_causal_and_independent(variant)


def test_side_choices_change_the_layer():
    def names(**change):
        return {n for n, _ in model_of(DEEP.replace(**change)).named_parameters()}

    assert any("conv" in n for n in names())
    assert not any("conv" in n for n in names(conv=0))
    linear = DEEP.replace(memory=registry.find("memory", "matrix")())
    assert any("initial" in n for n, _ in model_of(linear).named_parameters())
    zero = model_of(linear.replace(initial_memory="zero"))
    assert not any("initial" in n for n, _ in zero.named_parameters())


@pytest.mark.parametrize("norm", ["l2", "rms", "none"])
def test_what_the_memory_is_given(norm, monkeypatch):
    """Queries and keys of the chosen length, values as they are, and the parameters themselves."""
    given = {}

    def spy(variant, q, k, v, gates, weights, *rest):
        given.update(q=q, k=k, v=v, weights=weights)
        return memorize(variant, q, k, v, gates, weights, *rest)

    monkeypatch.setattr("miras_search.nn.cell.memorize", spy)
    torch.manual_seed(0)
    mixer = Mixer(DEEP.replace(qk_norm=norm), 8)
    mixer(20 * torch.randn(2, 3, 8))
    lengths = {"l2": 1.0, "rms": 2.0}
    for name in ("q", "k", "v"):
        assert given[name].shape == (2, 3, 2, 4)
        length = given[name].norm(dim=-1)
        if name == "v" or norm == "none":
            assert length.std() > 0.01
        else:
            torch.testing.assert_close(
                length, torch.full_like(length, lengths[norm]), rtol=1e-4, atol=0
            )
    assert all(given["weights"][n] is w for n, w in mixer.cell.initial.items())
    assert mixer.cell._normalise(torch.zeros(1, 1, 2, 4)).isfinite().all()


@pytest.mark.parametrize("algorithm", ["gd", "multi_step"])
def test_rotary_positions(algorithm, monkeypatch):
    """Queries and keys as complex numbers, times e^(i t 10000^(-2 j / K)) for the token at t, which
    is counted from the first token of all; values stay."""
    given = []

    def spy(variant, q, k, v, *rest):
        given.append((q, k, v))
        return memorize(variant, q, k, v, *rest)

    monkeypatch.setattr("miras_search.nn.cell.memorize", spy)
    changed = {"positions": "rotary", "algorithm": algorithm, "conv": 0}
    turning = Variant.from_dict(DEEP.to_dict() | changed)
    torch.manual_seed(0)
    mixer = Mixer(turning, 16).double()
    still = Mixer(turning.replace(positions="none"), 16).double()
    still.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    _, state = mixer(x[:, :3])
    mixer(x[:, 3:], state)
    still(x)
    first, second, whole = given
    turn = torch.polar(torch.ones(4), torch.tensor([1.0, 0.1, 0.01, 0.001])).to(torch.complex128)
    for i, each in enumerate((1, turning.algorithm.writes, turning.algorithm.writes)):
        found, plain = torch.cat([first[i], second[i]], dim=1), whole[i]
        place = torch.arange(7).repeat_interleave(each)[:, None, None]
        turned = torch.complex(*plain.chunk(2, dim=-1)) * turn**place
        expected = plain if i == 2 else torch.cat([turned.real, turned.imag], dim=-1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def coefficients():
    found = {}
    for axis in ("bias", "retention"):
        found |= {(c, 1): None for case in cases(axis) for c in case.coefficients()}
    for case in cases("algorithm"):
        found |= {(c, n): None for n in (1, 64) for c in case.coefficients(n)}
    return list(dict.fromkeys(c for c, _ in found if not c.fixed))


@pytest.mark.parametrize("c", coefficients(), ids=lambda c: f"{c.name}-{c.source}-{c.per}-{c.high}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gate_starts_at_its_initial_value_and_stays_inside(c: Coefficient, dtype):
    torch.manual_seed(0)
    gate = Gate(c, width=6, heads=2, channels=5, rank=3).to(dtype)
    channels = () if c.per == "head" else (5,)
    start = gate(torch.zeros(2, 3, 6, dtype=dtype))
    assert start.shape == (2, 3, 2, *channels)
    torch.testing.assert_close(start, torch.full_like(start, c.initial), rtol=1e-6, atol=1e-7)
    x = torch.randn(200, 3, 6, dtype=dtype)
    for size in (1.0, 1e2, 1e4):
        value = gate(size * x)
        assert (value > c.low).all(), f"{c.name} reaches {c.low}"
        assert (value < c.high).all(), f"{c.name} reaches {c.high}"
        moves = (value.detach().std(dim=0) > 0).all()
        assert moves == (c.source == "data")


def gates_of(algorithm, retention="l2", chunk=4):
    """The gates of a layer for large inputs, so that they come near their ends; and the variant."""
    variant = Variant.from_dict(
        {"memory": "mlp", "bias": "l2", "retention": retention, "algorithm": algorithm}
        | {"chunk": chunk, "heads": 2}
    )
    torch.manual_seed(0)
    gates = Mixer(variant, 8).double().cell.gates
    return gates(40 * torch.randn(3, 50, 8, dtype=torch.float64)), variant


@pytest.mark.parametrize("per", ["head", "channel"])
@pytest.mark.parametrize(("order", "factors"), [(1, 1), (2, 3)])
def test_a_step_ends_earlier_beside_momentum(order, factors, per):
    values, variant = gates_of({"kind": "momentum", "order": order, "per": per})
    (step,) = (c for c in variant.coefficients() if c.name == "step")
    suffix = "" if per == "head" else ".W1"
    share = values[f"step{suffix}"] / (1 - values[f"momentum{suffix}"]) ** factors / step.high
    assert 0 < share.min() < 0.1
    assert 0.9 < share.max() < 1 + 1e-12  # the rounding of the quotient


def test_a_step_along_an_orthogonal_sum_does_not_see_momentum():
    values, variant = gates_of("muon")
    (step,) = (c for c in variant.coefficients() if c.name == "step")
    fast = values["momentum"] > 0.99
    assert fast.any()
    assert values["step"][fast].max() > 0.5 * step.high


def test_the_mean_of_squares_forgets_no_faster_than_the_mean():
    values, _ = gates_of("adam")
    assert (values["second"] >= values["momentum"]).all()
    assert values["momentum"].max() > 0.9
    assert values["second"].max() < 0.999


def test_a_gate_acts_at_the_first_write_of_a_token_alone():
    values, _ = gates_of({"kind": "multi_step", "n": 3})
    assert values["retention"].shape == (3, 150, 2)
    assert (values["retention"].unflatten(1, (50, 3))[:, :, 1:] == 1).all()
    assert (values["retention"].unflatten(1, (50, 3))[:, :, 0] < 1).all()


@pytest.mark.parametrize("algorithm", ["gd", "momentum", "nesterov", "muon", "adam"])
def test_the_steps_of_a_window_are_shorter_by_its_length(algorithm):
    ends = []
    for window in (1, 8):
        chosen = {"kind": algorithm, "window": window}
        _, variant = gates_of(chosen, chunk=16)
        ends += [c.high for c in variant.coefficients() if c.name == "step"]
    assert ends[0] == pytest.approx(8 * ends[1])


def test_channel_gates_are_own_to_each_matrix_and_of_low_rank():
    variant = DEEP.replace(retention=registry.find("retention", "l2")(per="channel"), gate_rank=3)
    mixer = Mixer(variant, 8)
    assert {"retention.W1", "retention.W2", "step", "momentum", "delta"} == set(
        mixer.cell.gates.names
    )
    gates = mixer.cell.gates(torch.randn(2, 5, 8))
    assert gates["retention.W1"].shape == (2, 5, 2, 16)
    assert gates["retention.W2"].shape == (2, 5, 2, 4)
    gate = dict(zip(mixer.cell.gates.names, mixer.cell.gates.gates, strict=True))["retention.W1"]
    assert [tuple(p.shape) for p in gate.projection.parameters()] == [(3, 8), (32, 3)]


@pytest.mark.parametrize("per", ["head", "channel"])
def test_a_mixer_is_differentiated_through_all_its_inputs(per):
    """Numerically: a path that is cut, such as the one through a gate, leaves others alive."""
    axes = {axis: c for axis, c in DEEP.axes().items() if "per" in type(c).model_fields}
    changed = {axis: type(c)(**c.model_dump() | {"per": per}) for axis, c in axes.items()}
    torch.manual_seed(0)
    mixer = Mixer(DEEP.replace(**changed), 8).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mixer(x)[0], x, fast_mode=True)


@pytest.mark.parametrize("variant", [*ALONE, SQUARED], ids=str)
def test_a_memory_is_held_in_full_precision_under_bf16(variant, monkeypatch):
    """What a layer gives to the memory, and that the memory makes of it what it makes elsewhere."""
    calls = []

    def spy(*given):
        calls.append((given, memorize(*given)))
        return calls[-1][1]

    monkeypatch.setattr("miras_search.nn.cell.memorize", spy)
    model = model_of(variant, Size(width=8, layers=2), dtype=torch.float32)
    with torch.no_grad(), torch.autocast(torch.get_default_device().type, torch.bfloat16):
        logits, _ = model(tokens_of())
    assert logits.dtype == torch.bfloat16
    for given, (y, state) in calls:
        layer, q, k, v, gates, weights, *rest = given
        held = torch.bfloat16 if layer.memory.grows else torch.float32
        tensors = (q, k, v, *gates.values(), *weights.values(), *state.tensors.values())
        assert {x.dtype for x in tensors} == {held}
        with torch.no_grad():
            again, after = memorize(layer, q, k, v, gates, weights, *rest)
        assert again.equal(y)
        assert all(x.equal(state.tensors[name]) for name, x in after.tensors.items())


@pytest.mark.parametrize("variant", often(ALONE, variants(chunk=4, heads=2)), ids=str)
def test_lowerings_agree_in_a_model(variant):
    outputs = []
    for lowering in ("reference", "chunked", "auto"):
        torch.manual_seed(0)
        size = SIZE.model_copy(update={"layers": variant.macro.depth})
        model = Backbone(variant, size, VOCABULARY, lowering).double()
        outputs.append(logits_of(model, tokens_of()))
    close(outputs[1], outputs[0], f"{variant}")
    close(outputs[2], outputs[0], f"{variant}")


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="width 8 is not divisible by 3 heads"):
        Backbone(DEEP.replace(heads=3), SIZE, VOCABULARY)


@pytest.mark.parametrize("algorithm", ["momentum", "newton"])
def test_a_model_in_half_precision_keeps_its_memory_in_full(algorithm):
    """Weights are rounded; a retention of 0.999 and what is summed up over many tokens are not."""
    axes = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": algorithm}
    torch.manual_seed(0)
    layer = Mixer(Variant.from_dict(axes), 8)
    retention = layer.cell.gates.gates[layer.cell.gates.names.index("retention")]
    with torch.no_grad():
        retention.bias.fill_(7.0)
    x = torch.randn(1, 6, 8)
    y, _ = layer(x)
    half, state = layer.bfloat16()(x.bfloat16())
    assert retention(x.bfloat16()).max() > 0.998
    assert half.dtype == torch.bfloat16
    held = {n: t for n, t in state["memory"].tensors.items() if not n.startswith("conv")}
    assert {t.dtype for t in held.values()} == {torch.float32}
    torch.testing.assert_close(half.float(), y, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("axes", [{"memory": "mlp", "chunk": 6}, {"memory": "matrix"}])
def test_a_long_sequence_is_read_in_pieces(axes, monkeypatch):
    """Values, state and gradients of one piece and of several."""
    axes = {"bias": "l2", "retention": "l2", "algorithm": "momentum"} | axes
    if torch.get_default_device().type != "cpu":
        pytest.skip("pieces are for the caches of a CPU")
    torch.manual_seed(0)
    layer = Mixer(Variant.from_dict(axes), 8).double()
    x = torch.randn(2, 450, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for entries in (mixer.ENTRIES, 1):
        monkeypatch.setattr(mixer, "ENTRIES", entries)
        y, state = layer(x)
        found.append((y, *(x for part in state.values() for x in part.tensors.values())))
        found[-1] += (*torch.autograd.grad(y.square().sum(), (x, *layer.parameters())),)
    whole = layer._piece(x)
    assert whole < 450 / 2
    assert whole % layer.cell.variant.chunk == 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)

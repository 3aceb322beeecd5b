"""Macro architectures: which layer is what."""

import pytest
import titans
import torch
from torch.nn.functional import silu

from miras_search.errors import InvalidValues, UserError
from miras_search.macro.mac import Mac
from miras_search.macro.mag import Mag
from miras_search.macro.mal import Mal
from miras_search.nn.attention import WindowAttention
from miras_search.nn.backbone import Backbone
from miras_search.nn.mixer import Mixer
from miras_search.recipe import load_pair
from miras_search.size import Size
from miras_search.variant import Variant

BASE = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd", "heads": 2}
HYBRID = BASE | {"macro": {"kind": "hybrid", "pattern": "MMA", "window": 5}, "conv": 0}


def test_the_layers_of_a_hybrid_follow_its_pattern():
    model = Backbone(Variant.from_dict(HYBRID), Size(width=8, layers=5), 13)
    sorts = [type(block.mixer) for block in model.blocks]
    assert sorts == [Mixer, Mixer, WindowAttention, Mixer, Mixer]
    assert model.blocks[2].mixer.window == 5
    assert model.blocks[2].mixer.attention.heads == 2


def test_attention_of_a_hybrid_sees_its_window_and_no_more():
    """Beside a memory that is never written, the last token sees the last `window` alone."""
    frozen = {"algorithm": {"kind": "gd", "step": 1e-30}, "initial_memory": "zero"}
    macro = {"macro": {"kind": "hybrid", "pattern": "MA", "window": 5}}
    torch.manual_seed(0)
    model = Backbone(Variant.from_dict(HYBRID | frozen | macro), Size(width=8, layers=2), 13)
    tokens = torch.randint(13, (1, 12))
    last = model(tokens)[0][0, -1]
    for place in range(12):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 13
        seen = not model(other)[0][0, -1].allclose(last, atol=1e-9, rtol=0)
        assert seen == (place >= 7), place


def test_what_is_not_a_pattern_is_refused():
    for pattern in ("", "AA", "MX", "ma"):
        with pytest.raises(InvalidValues, match="expected letters M and A"):
            Variant.from_dict(BASE | {"macro": {"kind": "hybrid", "pattern": pattern}})


def test_a_pattern_deeper_than_the_model_is_refused():
    with pytest.raises(ValueError, match="needs 3 layers or more"):
        Backbone(Variant.from_dict(HYBRID), Size(width=8, layers=2), 13)
    with pytest.raises(UserError, match=r"1 are too few for hybrid.*: expected at least 2"):
        load_pair("spaces/hybrid.yaml", "recipes/bytes.yaml", ["size.layers=1"])


def test_the_memory_alone_is_not_spelled_out():
    alone, hybrid = Variant.from_dict(BASE), Variant.from_dict(HYBRID)
    assert alone.to_dict()["macro"] == {"kind": "lmm", "persistent": 0}
    assert "macro" not in alone.to_yaml_dict() | alone.equations()
    assert alone == Variant.from_dict(BASE | {"macro": "lmm"})
    assert Variant.from_dict(hybrid.to_yaml_dict()) == hybrid
    assert "MMA" in hybrid.equations()["macro"]
    assert hybrid.digest != alone.digest


@pytest.mark.parametrize("segment", [1, 3, 4, 20])
@pytest.mark.parametrize("persistent", [0, 2])
def test_memory_as_context_is_its_definition(segment, persistent):
    variant = Variant.from_dict(BASE | {"retention": "none", "algorithm": {"kind": "gd"}})
    torch.manual_seed(0)
    layer = Mac(segment=segment, persistent=persistent).mixer(variant, 8, "auto").double()
    x = torch.randn(1, 11, 8, dtype=torch.float64)
    expected = titans.mac(layer, x[0])
    torch.testing.assert_close(layer(x)[0][0], expected, rtol=1e-8, atol=1e-10)


def test_memory_as_a_gate_is_its_definition():
    """Attention and memory read the same persistent tokens; both are normalised and multiplied."""
    torch.manual_seed(0)
    layer = Mag(window=4, persistent=3).mixer(Variant.from_dict(BASE), 8, "auto").double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    first = layer.memory.persistent
    without = Mixer(Variant.from_dict(BASE), 8).double()
    without.load_state_dict(
        {n: p for n, p in layer.memory.state_dict().items() if n != "persistent"}
    )
    a = titans.window(layer.attention, x[0], first)[None]
    m = without(torch.cat([first[None], x], dim=1))[0][:, 3:]
    a, m = (
        silu(titans.rms(z, norm.weight))
        for z, norm in zip((a, m), layer.product.norms, strict=True)
    )
    expected = (a * m) @ layer.product.output.weight.T
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_memory_as_a_layer_is_its_definition():
    """What attention reads is what the memory gives, and not the tokens; persistent tokens of the
    memory come before these, those of attention have no place."""
    torch.manual_seed(0)
    layer = Mal(window=4, persistent=3).mixer(Variant.from_dict(BASE), 8, "auto").double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    without = Mixer(Variant.from_dict(BASE), 8).double()
    own = layer.memory.state_dict()
    without.load_state_dict({n: p for n, p in own.items() if n != "persistent"})
    m = without(torch.cat([layer.memory.persistent[None], x], dim=1))[0][0, 3:]
    expected = titans.window(layer.attention, m)
    torch.testing.assert_close(layer(x)[0][0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["mac", "mag", "mal"])
def test_persistent_tokens_and_spans_matter(kind):
    variant = Variant.from_dict(BASE | {"macro": kind})
    tokens, outputs = torch.arange(12)[None], []
    span = "segment" if kind == "mac" else "window"
    for change in ({}, {"persistent": 0}, {span: 3}):
        torch.manual_seed(0)
        macro = variant.macro.model_copy(update=change)
        model = Backbone(variant.replace(macro=macro), Size(width=8, layers=1), 13)
        outputs.append(model(tokens)[0])
    assert not outputs[0].allclose(outputs[1])
    assert not outputs[0].allclose(outputs[2])

"""Macro architectures: which layer is what."""

import pytest
import torch

from miras_search.errors import InvalidValues, UserError
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Size, load_pair
from miras_search.variant import Variant

BASE = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd", "heads": 2}
HYBRID = BASE | {"macro": {"kind": "hybrid", "pattern": "MMA", "window": 5}, "conv": 0}


def test_the_layers_of_a_hybrid_follow_its_pattern():
    model = Backbone(Variant.from_dict(HYBRID), Size(width=8, layers=5), 13)
    kinds = [block.mixer.variant.memory.kind for block in model.blocks]
    assert kinds == ["matrix", "matrix", "sliding_window", "matrix", "matrix"]
    assert model.blocks[2].mixer.variant.memory.window == 5
    assert {block.mixer.variant.heads for block in model.blocks} == {2}


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
    assert alone.to_dict()["macro"] == {"kind": "lmm"}
    assert "macro" not in alone.to_yaml_dict() | alone.equations()
    assert alone == Variant.from_dict(BASE | {"macro": "lmm"})
    assert Variant.from_dict(hybrid.to_yaml_dict()) == hybrid
    assert "MMA" in hybrid.equations()["macro"]
    assert hybrid.digest != alone.digest

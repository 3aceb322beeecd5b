"""What a memory is told to be surprised by, against definitions and by autograd."""

import pytest
import torch
from alone import DEEP
from often import often

from miras_search import load
from miras_search.layer import memorize, recall, surprise
from miras_search.lower.surprise import norm
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Recipe
from miras_search.size import Size
from miras_search.testing import cases, make_inputs, pairs
from miras_search.trial import TrialSpec, run
from miras_search.variant import Variant

DELTA = Variant.from_dict(
    {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd", "heads": 2}
)
PAIRS = [v for v in pairs(chunk=4, heads=2) if not v.memory.grows]


def surprise_of(variant, inputs, state=None):
    return surprise(variant, inputs.k, inputs.v, inputs.gates, inputs.weights, state)


def test_of_the_delta_rule_by_hand():
    inputs = make_inputs(DELTA, 9)
    found = surprise_of(DELTA, inputs)
    weights = inputs.weights["W"].expand(2, -1, -1, -1) if inputs.weights else 0
    for t in range(9):
        k, v, step = inputs.k[:, t], inputs.v[:, t], inputs.gates["step"][:, t]
        error = torch.einsum("bhoi,bhi->bho", weights, k) - v
        moved = step[..., None, None] * error[..., None] * k[..., None, :]
        weights = weights - moved
        expected = {
            "loss": error.square().sum(-1) / 2,
            "gradient": error.norm(dim=-1) * k.norm(dim=-1),
            "write": moved.flatten(2).norm(dim=-1),
        }
        for name, x in expected.items():
            torch.testing.assert_close(found[name][:, t], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", often(PAIRS[::4], PAIRS), ids=str)
def test_shapes_splits_and_no_graph(variant):
    """Of a sequence in two parts, the second from the state of the first."""
    inputs = make_inputs(variant, 7)
    leaf = inputs.map_tokens(lambda x: x.requires_grad_())
    whole = surprise_of(variant, leaf)
    assert set(whole) == {"loss", "gradient", "write"}
    for x in whole.values():
        assert x.shape == (2, 7, 2)
        assert x.isfinite().all()
        assert not x.requires_grad
    assert (whole["gradient"] >= 0).all()
    assert (whole["write"] >= 0).all()
    assert whole["write"].max() > 0
    first, second = (
        inputs.map_tokens(lambda x, a=a, b=b: inputs.tokens(x, a, b)) for a, b in ((0, 3), (3, 7))
    )
    _, state = memorize(variant, first.q, first.k, first.v, first.gates, first.weights)
    for name, x in surprise_of(variant, second, state).items():
        torch.testing.assert_close(x, whole[name][:, 3:], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("retention", ["none", "l2", {"kind": "lq", "q": 4.0}, "elastic_net"])
def test_norm_of_a_matrix_is_that_of_what_it_gives_for_the_unit_vectors(retention):
    """The norm of W from its columns, read one by one, also where the state is not W."""
    changed = {"retention": retention, "algorithm": "momentum"}
    variant = Variant.from_dict(DELTA.to_dict() | changed)
    inputs = make_inputs(variant, 4)  # a gate for each of the unit vectors, too
    _, state = memorize(variant, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights)
    units = torch.eye(inputs.k.shape[-1], dtype=inputs.k.dtype)[None, :, None].expand(2, -1, 2, -1)
    read = recall(variant, units, inputs.v.shape[-1], inputs.gates, inputs.weights, state)
    torch.testing.assert_close(norm(variant, state), read.square().sum((1, 3)).sqrt())


def test_of_the_least_squares_memory_it_is_the_change_of_its_solution():
    """Not of the sum of pairs that it carries."""
    variant = Variant.from_dict(DELTA.to_dict() | {"algorithm": "newton"})
    inputs = make_inputs(variant, 6)
    found, state = surprise_of(variant, inputs), None
    units = torch.eye(inputs.k.shape[-1], dtype=inputs.k.dtype)[None, :, None].expand(2, -1, 2, -1)
    for t in range(6):
        one = inputs.map_tokens(lambda x, t=t: inputs.tokens(x, t, t + 1))
        gates = {name: g.expand(-1, len(units[0]), *g.shape[2:]) for name, g in one.gates.items()}
        solved = []
        for when in (
            state,
            memorize(variant, one.q, one.k, one.v, one.gates, one.weights, state)[1],
        ):
            weights = inputs.weights
            solved.append(recall(variant, units, inputs.v.shape[-1], gates, weights, when))
            after = when
        moved = (solved[1] - solved[0]).square().sum((1, 3)).sqrt()
        torch.testing.assert_close(found["write"][:, t], moved)
        state = after
    assert norm(variant, state) is None  # its damping is of the next token


def test_a_pair_that_is_repeated_surprises_less():
    """The delta rule at step 1 knows a unit key after one write."""
    variant = Variant.from_dict(DELTA.to_dict() | {"algorithm": {"kind": "gd", "step": 1.0}})
    inputs = make_inputs(variant, 4)
    k = inputs.k[:, :1].repeat(1, 4, 1, 1)
    v = inputs.v[:, :1].repeat(1, 4, 1, 1)
    found = surprise(variant, k, v, {}, inputs.weights)
    assert (found["loss"][:, 0] > 0.01).all()
    for x in found.values():
        assert (x[:, 1:] < 1e-12).all()


def test_gradients_of_a_chunk_are_taken_at_its_start():
    """So another first value changes the losses after it, and gradients in the next chunk alone."""
    inputs = make_inputs(DEEP, 8)
    other = inputs.v.clone()
    other[:, 0] *= -1
    one = surprise(DEEP, inputs.k, inputs.v, inputs.gates, inputs.weights)
    two = surprise(DEEP, inputs.k, other, inputs.gates, inputs.weights)
    torch.testing.assert_close(one["gradient"][:, 1:4], two["gradient"][:, 1:4])
    assert not one["gradient"][:, 4].allclose(two["gradient"][:, 4], rtol=1e-3)
    assert not one["loss"][:, 1].allclose(two["loss"][:, 1], rtol=1e-3)


def test_a_memory_that_keeps_pairs_has_none():
    variant = Variant.from_dict(DELTA.to_dict() | {"memory": "attention"})
    inputs = make_inputs(variant, 3)
    assert surprise(variant, inputs.k, inputs.v, {}, None) == {}


@pytest.mark.parametrize("macro", cases("macro")[::4], ids=str)
def test_of_every_layer_of_a_model(macro):
    variant = DELTA.replace(macro=macro, chunk=4)
    torch.manual_seed(0)
    model = Backbone(variant, Size(width=8, layers=macro.depth), 13).double()
    tokens = torch.randint(13, (2, 9))
    found, after = model.surprise(tokens)
    _, expected = model(tokens)
    layers = macro.layers(macro.depth)
    assert len(found) == len(layers)
    for of_layer, layer in zip(found, layers, strict=True):
        names = set() if layer.kind == "window" else {"loss", "gradient", "write"}
        assert set(of_layer) == names
        assert all(x.shape == (2, 9, 2) for x in of_layer.values())
    for one, two in zip(after, expected, strict=True):
        for name, part in one.items():
            for n, x in part.tensors.items():
                torch.testing.assert_close(x, two[name].tensors[n])
    parts, state = [], None
    for piece in tokens.split(4, dim=1):
        of_piece, state = model.surprise(piece, state)
        parts.append(of_piece)
    for i, of_layer in enumerate(found):
        for name, x in of_layer.items():
            joined = torch.cat([part[i][name] for part in parts], dim=1)
            torch.testing.assert_close(joined, x, rtol=1e-7, atol=1e-9)
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.trial
def test_a_trial_tells_how_surprised_its_memories_were(tmp_path):
    """The last point, against the mean over the first validation tokens by the kept model."""
    task = {"kind": "mqar", "length": 40, "pairs": 2, "vocab": 32, "train_examples": 20}
    recipe = {"task": task | {"eval_examples": 20}, "size": {"width": 8}, "steps": 2, "batch": 10}
    spec = TrialSpec(
        number=0,
        variant=DELTA.to_dict(),
        recipe=Recipe.from_dict(recipe | {"evaluate": 1, "lr": 1e-2}).to_dict(),
        lr=1e-2,
        seed=0,
        study="surprise",
        folder=str(tmp_path),
    )
    told = run(spec).curve[-1].surprise
    rows = Recipe.from_dict(spec.recipe).task.dataset("validation", 0)
    tokens = torch.stack([rows[i][0][:32] for i in range(8)])
    found, _ = load(tmp_path).surprise(tokens)
    names = [f"layer{i}/{x}" for i in (1, 2) for x in ("loss", "gradient", "write")]
    assert list(told) == names
    for name, x in told.items():
        layer, part = name.removeprefix("layer").split("/")
        assert x == pytest.approx(float(found[int(layer) - 1][part].mean()), rel=1e-5)

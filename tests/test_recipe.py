"""Recipes: round trips, what the digest covers, and overrides that find their file."""

import sys
from subprocess import run

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_search.errors import UserError
from miras_search.nodes import Choices, Fixed, Range
from miras_search.recipe import Recipe, load_pair

SPACE = "memory: matrix\nbias: l2\nretention: none\nalgorithm: gd\nheads: [2, 4]\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "s.yaml").write_text(SPACE)
    (tmp_path / "r.yaml").write_text("task: mqar\nsteps: 10\nlr: {log_uniform: [1e-3, 1e-2]}\n")
    return str(tmp_path / "s.yaml"), str(tmp_path / "r.yaml")


def test_defaults_and_values(files):
    recipe = Recipe.load(files[1])
    assert recipe.name == "r"
    assert recipe.task.kind == "mqar"
    assert (recipe.steps, recipe.size.width, recipe.weight_decay) == (10, 64, 0.1)
    assert recipe.lr == Range("log_uniform", 1e-3, 1e-2)
    assert hash(recipe) == hash(Recipe.load(files[1]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {"task": st.just("mqar")},
        optional={
            "lr": st.sampled_from(
                [0.1, [1e-3, 1e-2], {"uniform": [0.1, 0.3], "step": 0.1}, [1, {"uniform": [2, 3]}]]
            ),
            "size": st.fixed_dictionaries(
                {}, optional={"width": st.integers(4, 512), "mlp": st.floats(0, 8)}
            ),
            "steps": st.integers(1, 10**6),
            "clip": st.floats(0.1, 10),
            "trials": st.none() | st.integers(1, 99),
            "out": st.none() | st.sampled_from(["runs/x", "1e5", "no", "a: b", "# x"]),
            "sampler": st.sampled_from(["grid", "random", "tpe"]),
            "warm_start": st.sampled_from([None, "runs/x", [], ["1e5", "a: b"]]),
        },
    )
)
def test_round_trip(tmp_path_factory, data):
    recipe = Recipe.from_dict(data)
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(recipe.to_yaml())
    again = Recipe.load(file)
    assert again == recipe
    assert again.digest == recipe.digest


def test_digest_covers_what_decides_a_result():
    base = Recipe.from_dict({"task": "mqar"})
    other = {
        "name": "x",
        "trials": 3,
        "finalists": 2,
        "ablations": True,
        "seeds": 4,
        "sampler": "grid",
        "warm_start": ["runs/x", "runs/y"],
        "pruner": "median",
        "executor": "ray",
        "address": "host:1",
        "workers": 2,
        "compile": True,
        "recompute": False,
        "weights": "all",
        "accelerator": "cpu",
        "wandb": "disabled",
        "out": "x",
    }
    seeking = {"objectives": ["score", "state_bytes"], "pruner": "none"}
    for running in (other, other | {"compile": False, "recompute": True} | seeking):
        assert Recipe.from_dict({"task": "mqar"} | running).digest == base.digest
    changed = {
        "size": {"width": 128},
        "match": {"params": 1000},
        "steps": 3,
        "batch": 3,
        "devices": 2,
        "lr": 0.1,
        "weight_decay": 0,
        "warmup": 0.5,
        "clip": 2,
        "evaluate": 3,
        "seed": 1,
        "precision": "bf16-mixed",
    }
    digests = {Recipe.from_dict({"task": "mqar", name: v}).digest for name, v in changed.items()}
    assert len(digests | {base.digest}) == len(changed) + 1
    assert {"task", *other, *seeking, *changed} == {*Recipe.model_fields}


def test_overrides_find_their_file(files):
    space, recipe = load_pair(
        *files,
        ["size.width=32", "heads=[4, 8]", "lr=[0.1, 1e-3]", "bias={kind: lp, p: 4}", "out=a/b"],
    )
    assert recipe.size.width == 32
    assert recipe.size.layers == 2
    assert recipe.lr == Choices((Fixed(0.1), Fixed(0.001)))
    assert recipe.out == "a/b"
    assert space.values("heads") == [4, 8]
    assert {str(variant.bias) for variant in space.enumerate()} == {"lp(p=4)"}


def test_a_width_that_heads_cannot_share(files):
    with pytest.raises(UserError) as caught:
        load_pair(*files, ["size.width=30"])
    assert caught.value.problems == [
        "command line 'size.width=30': 30 cannot be shared by 4 heads: "
        "expected a multiple, such as 28 or 32"
    ]


def test_heads_that_cannot_share_a_width_nobody_wrote(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE.replace("[2, 4]", "{integer: [1, 7]}"))
    (tmp_path / "recipe.yaml").write_text("task: mqar\n")
    with pytest.raises(
        UserError, match=r"space.yaml:\d+: heads: 3, 5, 6, 7 heads cannot share the"
    ):
        load_pair(tmp_path / "space.yaml", tmp_path / "recipe.yaml")


def test_address_is_for_ray():
    with pytest.raises(UserError, match="it needs executor: ray"):
        Recipe.from_dict({"task": "mqar", "address": "host:1"})


def test_spaces_and_recipes_load_without_torch(files):
    code = (
        "import sys; from miras_search import Recipe, Space; space, recipe = sys.argv[1:]; "
        "Space.load(space); Recipe.load(recipe); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'optuna', 'wandb')))"
    )
    assert run([sys.executable, "-c", code, *files], check=False).returncode == 0

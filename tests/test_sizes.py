"""The published sizes: parameters counted by hand, without building them."""

import resource
import sys
from pathlib import Path

import pytest
import torch
from test_cli import few_steps

from miras_search import estimate
from miras_search.lit import EVALUATED, MemoryModule
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Recipe
from miras_search.space import Space
from miras_search.variant import Variant

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "spaces.md"

PUBLISHED = {
    "170m": (12, 768, 16, 3e-3, 15e9),
    "340m": (24, 1024, 16, 1.5e-3, 15e9),
    "760m": (24, 1536, 16, 1.25e-3, 30e9),
    "1300m": (18, 2048, 8, 7e-4, 100e9),
}
"""Layers, width, heads, peak rate and tokens of the tables of Titans, MIRAS and Atlas."""

HIDDEN = {768: 2048, 1024: 2816, 1536: 4096, 2048: 5632}
"""Llama's hidden width: 8/3 of the width, up to a multiple of 256."""

MODELS = ("softmax_attention", "gated_deltanet", "titans_lmm")
MACROS = {
    "lmm": "lmm",
    "mac": "{kind: mac, segment: 512, persistent: 128}",
    "mag": "{kind: mag, window: 2048, persistent: 128}",
    "mal": "{kind: mal, window: 2048, persistent: 128}",
    "hybrid": "{kind: hybrid, window: 2048, persistent: 128}",
}
SORTS = {"lmm": "M", "mac": "C", "mag": "G", "mal": "L", "hybrid": "MA"}
"""Of the layers, in turn."""


def recipe_of(name):
    return Recipe.load(ROOT / "recipes" / "sizes" / f"{name}.yaml")


def variant_of(model, macro, heads):
    (variant,) = Space.load(model, [f"heads={heads}", f"macro={MACROS[macro]}"]).enumerate()
    return variant


def gates(model, d, heads):
    """Gates of one cell: a linear map and a bias for each output; those of each channel go through
    32 of rank. A step and a retention, and in Titans a momentum too."""
    per_head = d * heads + heads
    outputs = (4 * d, d)  # channels of W1 and of W2 in all heads
    per_channel = sum(32 * d + 32 * n + n for n in outputs)
    return {"softmax_attention": 0, "gated_deltanet": 2 * per_head, "titans_lmm": 3 * per_channel}[
        model
    ]


def cell(model, d, heads):
    """Gates, the start of the memory and the norm of what is recalled."""
    key = d // heads
    start = {"titans_lmm": 2 * key * 4 * key}
    return gates(model, d, heads) + heads * start.get(model, 0) + key


def mixer(layer, model, d, heads):
    """All of a layer but its SwiGLU and norms. A convolution has 4 numbers for each channel."""
    match layer:
        case "M":  # q, k, v; output gate and output
            return 3 * (d * d + 4 * d) + 2 * d * d + cell(model, d, heads)
        case "A":  # q, k, v and output
            return 4 * d * d
        case "C":  # both of these but the output gate, the output being of a product of two norms
            convolved = 3 * (d * d + 4 * d)
            return convolved + 4 * d * d + (d * d + 2 * d) + cell(model, d, heads)
        case "G":  # M and A, and an output of a product of two norms
            both = (mixer(sort, model, d, heads) for sort in "MA")
            return sum(both) + d * d + 2 * d
        case "L":  # M and A, each after persistent tokens of its own
            return sum(mixer(sort, model, d, heads) for sort in "MA") + 128 * d
    raise AssertionError(layer)


def parameters(model, macro, layers, d, heads, vocabulary):
    """In closed form, from the papers' descriptions of the parts."""
    sorts = SORTS[macro] * (layers // len(SORTS[macro]))
    persistent = 0 if macro == "lmm" else 128 * d
    around = 3 * d * HIDDEN[d] + 2 * d + persistent  # SwiGLU, two norms, persistent tokens
    blocks = sum(mixer(sort, model, d, heads) + around for sort in sorts)
    return 2 * vocabulary * d + blocks + d  # embedding and head are not tied; the last norm


def built(name, model, macro):
    recipe, heads = recipe_of(name), PUBLISHED[name][2]
    with torch.device("meta"):
        return Backbone(variant_of(model, macro, heads), recipe.size, recipe.task.vocabulary)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_say_what_was_published(name):
    recipe = recipe_of(name)
    layers, width, _, lr, tokens = PUBLISHED[name]
    assert (recipe.size.layers, recipe.size.width, recipe.lr.plain()) == (layers, width, lr)
    assert round(recipe.size.mlp * width) == HIDDEN[width]
    assert (recipe.task.length, recipe.task.vocabulary, recipe.weight_decay) == (4096, 32000, 0.1)
    assert recipe.batch * recipe.task.length == 2**19
    assert recipe.steps == round(tokens / 2**19)


@pytest.mark.parametrize("macro", MACROS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_counted_by_hand(name, model, macro):
    layers, width, heads, *_ = PUBLISHED[name]
    found = sum(p.numel() for p in built(name, model, macro).parameters())
    assert found == parameters(model, macro, layers, width, heads, vocabulary=32000)


def test_documented_parameters_are_those_counted():
    """In millions, as the table of docs/spaces.md has them."""
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| `sizes/")]
    assert len(lines) == len(PUBLISHED)
    for line, (name, (layers, width, heads, *_)) in zip(lines, PUBLISHED.items(), strict=True):
        file, *told = [cell.strip(" `") for cell in line.strip("|").split("|")]
        assert file == f"sizes/{name}"
        assert told[:3] == [str(layers), str(width), str(heads)]
        counted = [
            parameters(model, macro, layers, width, heads, vocabulary=32000)
            for model, macro in (
                ("softmax_attention", "lmm"),
                ("gated_deltanet", "lmm"),
                ("titans_lmm", "lmm"),
                ("titans_lmm", "mac"),
                ("titans_lmm", "hybrid"),
            )
        ]
        tied = counted[0] - 32000 * width
        assert told[3:] == [f"{n / 1e6:.0f}" for n in (*counted, tied)]


def peak_bytes():
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_building_on_meta_takes_no_memory():
    """1.46e9 parameters would be 5.9 GB."""
    built("170m", "titans_lmm", "mac")  # what is loaded when first used
    before = peak_bytes()
    model = built("1300m", "titans_lmm", "mac")
    assert peak_bytes() - before < 2**28
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_a_small_one_of_it_runs(tmp_path):
    """The recipe but for what makes it large; sizes differ in numbers alone."""
    small = ("size.width=32", "size.layers=1", "batch=2", "steps=2", "evaluate=1", "heads=2")
    task = ("task.length=64", "task.pairs=4", "task.train_examples=8", "task.eval_examples=4")
    file = str(ROOT / "recipes" / "sizes" / "170m.yaml")
    few_steps(tmp_path, "gated_deltanet", file, *small, *task, "wandb=disabled")


@pytest.mark.parametrize("batch", [8, 2000])
def test_a_step_is_timed_on_as_many_sequences_as_a_step_has(batch, monkeypatch):
    """Held-out sets are read in larger batches; a set may be smaller than a batch."""
    seen = {True: set(), False: set()}
    forward, now = MemoryModule.forward, iter(range(10**6))

    def noted(self, tokens):
        seen[torch.is_grad_enabled()].add(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(MemoryModule, "forward", noted)
    # Whatever is timed takes a second: only what it is multiplied with is left.
    monkeypatch.setattr(estimate.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(estimate, "PATIENCE", 1e9)
    recipe = Recipe.from_dict(
        {
            "task": {"kind": "mqar", "length": 16, "pairs": 2, "train_examples": 64},
            "size": {"width": 8, "layers": 1},
            "batch": batch,
            "steps": 100,
            "evaluate": 1,
        }
    )
    variant = Variant.from_dict(
        {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
    )
    held = recipe.task.eval_examples
    found = estimate._timed(variant, recipe, recipe.size)
    read = min(held, max(batch, EVALUATED // 16))
    assert max(seen[True]) == min(batch, read)
    assert seen[False] == {read}
    parts = 1 + len(recipe.task.splits[1:])  # the validation set twice, each of the others once
    assert found == pytest.approx(100 * max(1, batch / read) + parts * held / read)


def test_steps_that_would_be_compiled_are_timed_as_they_are(monkeypatch):
    """Of those, each shape takes half a minute at first, which is no time of a step."""
    compiling = []

    def timed(variant, recipe, size):
        compiling.append(recipe.compile)
        return 100.0

    monkeypatch.setattr(estimate, "_timed", timed)
    axes = {"memory": "mlp", "bias": "l2", "retention": "none", "algorithm": "gd", "chunk": 4}
    recipe = Recipe.from_dict({"task": "mqar", "compile": True, "size": {"width": 8, "layers": 1}})
    for memory, extra in (("mlp", estimate.COMPILING), ("attention", 0.0)):
        variant = Variant.from_dict(axes | {"memory": memory, "bias": "l2"})
        assert estimate._trial_seconds(variant, recipe) == 100 + extra
    assert compiling == [False, True]


def test_the_time_of_a_large_model_is_told_from_a_part_of_it(monkeypatch):
    """Of 12 layers it builds 1 and 2; what is above the layers counts once."""
    sizes = []

    def timed(variant, recipe, size):
        sizes.append(size.layers)
        return 100.0 + 7.0 * size.layers

    monkeypatch.setattr(estimate, "_timed", timed)
    space, recipe = Space.load("gated_deltanet", ["heads=16"]), recipe_of("170m")
    assert estimate.seconds(space, recipe) == pytest.approx(estimate.STARTUP + 100 + 7 * 12)
    assert sizes == [1, 2]

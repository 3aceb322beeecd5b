"""`match`: every variant gets the same budget, by a size of its own, or is refused."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from study_files import RECIPE, SPACE, run, write

from miras_search import reach
from miras_search.errors import UserError
from miras_search.folder import StudyFolder
from miras_search.match import around
from miras_search.nn.backbone import Backbone
from miras_search.plan import plan
from miras_search.recipe import Recipe, load_pair
from miras_search.size import Match, Size
from miras_search.space import Rejection, Space
from miras_search.study import total_finals
from miras_search.variant import Variant

ROOT = Path(__file__).parent.parent
TASK = {"kind": "mqar", "length": 24, "pairs": 3, "vocab": 32}
PUBLISHED = sorted(file.stem for file in (ROOT / "spaces" / "published").glob("*.yaml"))


def recipe(**fields) -> Recipe:
    return Recipe.from_dict({"task": TASK, "size": {"width": 16, "layers": 2}} | fields)


@cache
def some(space: str) -> list[Variant]:
    """The first distinct variants, or random ones of a space without an end."""
    return [variant for variant, _ in reach.sample(Space.load(space), recipe(), 24)]


def measured(variant: Variant, own: Recipe, quantity: str) -> int:
    """Counted on a model that was built and has read a sequence."""
    task = own.task
    torch.manual_seed(0)
    model = Backbone(variant, own.size, task.vocabulary, readout=task.readout)
    match quantity:
        case "params":
            return sum(p.numel() for p in model.parameters())
        case "state":
            with torch.no_grad():
                _, state = model(torch.zeros(1, task.length, dtype=torch.long))
            held = [x for layer in state for part in layer.values() for x in part.tensors.values()]
            return sum(4 * x.numel() for x in held)
        case _:
            found = plan(variant, own.size, task.vocabulary, task.length, task.readout)
            return found.flops_per_token


@pytest.mark.parametrize("mlp", [1.0, 0.0], ids=["swiglu", "alone"])
@pytest.mark.parametrize("space", ["core", "miras", *PUBLISHED])
def test_every_variant_has_the_parameters_asked_for(space, mlp):
    asked = recipe(size={"width": 16, "layers": 2, "mlp": mlp}, match={"params": 40_000})
    for variant in some(space):
        own = asked.sized(variant)
        assert isinstance(own, Recipe), own
        assert own.match is None
        assert abs(measured(variant, own, "params") - 40_000) <= 400, str(variant)
        if mlp:
            assert own.size.width == 16


@pytest.mark.parametrize(("quantity", "target"), [("state", 24_000), ("flops", 60_000)])
def test_every_variant_has_the_state_or_the_work_asked_for(quantity, target):
    found = []
    for variant in some("core"):
        own = recipe(match={quantity: target, "tolerance": 0.05}).sized(variant)
        if isinstance(own, Rejection):
            assert f"cannot have {target:,}" in own.reason
            continue
        found.append(abs(measured(variant, own, quantity) / target - 1))
    assert len(found) >= 5
    assert max(found) <= 0.05


@pytest.mark.parametrize("heads", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(
    ("mlp", "match"),
    [
        (0.0, {"state": 2_000}),
        (0.0, {"params": 4_000}),
        (0.0, {"flops": 8_000}),
        (1.0, {"flops": 8_000}),
    ],
)
def test_the_nearest_size_is_found(heads, mlp, match):
    """Against every width, or every SwiGLU, there is in reach."""
    (quantity, target), *_ = match.items()
    widths = [Size(width=n, layers=2, mlp=0.0) for n in range(4, 41) if n % heads == 0]
    channels = [Size(width=8, layers=2, mlp=n / 8) for n in range(1, 100)]
    asked = recipe(size={"width": 8, "layers": 2, "mlp": mlp}, match=match | {"tolerance": 0.9})
    for variant in (v.replace(heads=heads) for v in some("core")[::6]):
        own = asked.sized(variant)
        assert isinstance(own, Recipe), own
        every = (own.model_copy(update={"size": size}) for size in (channels if mlp else widths))
        nearest = min(abs(measured(variant, one, quantity) - target) for one in every)
        assert abs(measured(variant, own, quantity) - target) == nearest


@pytest.mark.parametrize("power", [1, 1.5, 2, 3])
@pytest.mark.parametrize("constant", [0, 1000])
def test_neighbours_of_a_target_are_those_of_a_scan(power, constant):
    def value(n: int) -> int:
        asked.append(n)
        return round(constant + 7 * n**power)

    for target in (1, 7, 1500, 10**4, 10**6, 10**9):
        asked: list[int] = []
        found = around(value, target, start=16, least=2, most=3000)
        assert len(asked) <= 8 + math.log2(3000) + 1
        below = [n for n in range(2, 3001) if value(n) <= target]
        expected = [n for n in (len(below) + 1, len(below) + 2) if 2 <= n <= 3000]
        assert sorted(found) == expected
        assert all(value(n) == x for n, x in found.items())


def test_a_variant_out_of_reach_is_told_with_the_nearest():
    variant = next(iter(Space.load("deltanet").enumerate()))
    found = recipe(match={"state": 8_000, "tolerance": 0}).sized(variant)
    assert isinstance(found, Rejection)
    assert "cannot have 8,000 bytes of state within 0%: nearest are" in found.reason
    least = recipe(match={"state": 10}).sized(variant)
    assert isinstance(least, Rejection)
    assert "the least is" in least.reason


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ("{}", "expected exactly one of params, state and flops, got none of them"),
        ("{params: 10, flops: 10}", "expected exactly one of params, state and flops, got params"),
        ("{params: 0}", "match.params"),
        ("{params: 4000, tolerance: 1}", "match.tolerance"),
        ("{params: 4000, tolerance: 200%}", "match.tolerance"),
        ("{params: 4000, tolerance: x%}", "match.tolerance"),
        ("{params: 4000.5}", "match.params"),
        ("{parms: 4000}", "params"),
        (
            "{state: 1201, tolerance: 0}",
            "no variant can have 1,201 bytes of state within 0%: nearest",
        ),
        ("{params: 100}", "100 parameters within 1% are fewer than width 8 and layers 1"),
    ],
)
def test_what_cannot_be_matched_is_refused_before_anything_is_written(tmp_path, match, told):
    files = write(tmp_path)
    with pytest.raises(UserError) as caught:
        load_pair(*files, [f"match={match}"])
    assert told in str(caught.value)
    assert "match" in str(caught.value)


def test_a_budget_may_be_written_as_people_write_numbers(tmp_path):
    _, found = load_pair(*write(tmp_path), ["match={params: 4e3, tolerance: 2.5%}"])
    assert found.match == Match(params=4000, tolerance=0.025)


def test_a_sweep_tells_how_many_variants_it_leaves_out(tmp_path):
    # The deep memory alone begins with 8 x 32 + 32 x 32 + 32 x 32 + 32 x 8 parameters: 2,560.
    space = "memory: [matrix, {kind: mlp, depth: 4}]\nbias: l2\nretention: none\nalgorithm: gd\n"
    files = write(tmp_path, space + "chunk: 8\nheads: 1\n", RECIPE + "match: {params: 2500}\n")
    folder = tmp_path / "out"
    done = run("sweep", *files, f"out={folder}", "lr=1e-3", "steps=1", "evaluate=1")
    assert done.returncode == 0, done.stderr
    assert len(StudyFolder(folder).records()) == 1
    told = "1 of 2 variants cannot have 2,500 parameters within 1%"
    assert f"{told} and are left out" in done.stdout
    assert f"{told} and were left out" in (folder / "report.html").read_text()
    # Of two finalists only one can be had, although there are two trials at two rates.
    assert total_finals(*load_pair(*files, ["finalists=2", "seeds=3"])) == 3


def test_a_matched_sweep_gives_each_variant_its_size(tmp_path):
    folder = tmp_path / "out"
    files = write(tmp_path, SPACE, RECIPE + "match: {params: 3000}\n")
    done = run("sweep", *files, f"out={folder}", "lr=1e-3")
    assert done.returncode == 0, done.stderr
    records = StudyFolder(folder).records()
    sizes = {record.recipe["size"]["mlp"] for record in records}
    assert len(records) == 4
    assert len(sizes) > 1
    for record in records:
        assert record.recipe["match"] is None
        assert abs(record.parameters - 3000) <= 30
        own = Recipe.from_dict(record.recipe)
        assert measured(Variant.from_dict(record.variant), own, "params") == record.parameters
    assert "3,000 parameters within 1%" in done.stdout
    assert "3,000 parameters within 1%" in (folder / "report.html").read_text()
    # The winner again, by what the study holds.
    again = tmp_path / "again"
    best = max(records, key=lambda record: record.score)
    one = run("train", str(folder / "best.yaml"), str(folder / "recipe.yaml"), f"out={again}")
    assert one.returncode == 0, one.stderr
    (trained,) = StudyFolder(again).records()
    assert trained.recipe["size"] == best.recipe["size"]
    assert trained.score == best.score


def test_plan_tells_sizes_and_what_is_left_over(tmp_path):
    # At width 10: two heads of 5 x 5, and three tokens before convolutions of q, k and v. An mlp
    # memory has two such matrices, and no width with as much.
    held = 4 * (2 * 5 * 5 + 3 * 3 * 10)
    done = run("plan", *write(tmp_path), f"match={{state: {held}, tolerance: 0.005}}")
    assert done.returncode == 0, done.stderr
    assert f"cannot have {held} bytes of state within 0.5%: nearest are" in done.stdout
    assert f"every variant has {held} bytes of state within 0.5%" in done.stdout

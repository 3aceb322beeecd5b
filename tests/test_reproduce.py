"""Recipes of published experiments: they are as large as published, or say by how much smaller."""

import re
import shlex
from pathlib import Path

import pytest

from miras_search.recipe import Recipe, load_pair

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes" / "reproduce"
TEXT = (ROOT / "docs" / "tasks.md").read_text()

TRIED = 3 * 2
"""Learning rates by weight decays of each setting of MAD."""


def settings_of_mad() -> int:
    """The baseline and every other value of each factor, of all tasks in the documented grid."""
    section = TEXT[TEXT.index("## MAD") : TEXT.index("## Multi-query")]
    rows = re.findall(r"^\| `(\w+)` \| `\w+` \| ([\d., ]+) \|$", section, re.MULTILINE)
    kinds = {kind for kind, _ in rows}
    examples = re.search(r"`train_examples` of ([\d, and]+) in all but `memorization`", TEXT)
    assert examples
    fewer = len(re.findall(r"\d+", examples[1])) - 1
    others = sum(len(values.split(",")) - 1 for _, values in rows)
    return len(kinds) + others + fewer * (len(kinds) - 1)


def lite() -> list[Recipe]:
    """The recipe of each documented command, with its loop run."""
    block = re.search(r'^lite="([^"]*)"\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)
    assert block
    space, file = block[1].split()
    kinds = re.search(r"for kind in (.*); do", block[2])
    assert kinds
    found = []
    for line in re.findall(r"miras-search sweep \$lite (.*)", block[2]):
        for kind in kinds[1].split() if "$kind" in line else ("",):
            words = shlex.split(line.replace("$kind", kind), comments=True)
            found.append(load_pair(space, ROOT / file, words)[1])
    return found


def test_mad_is_as_many_runs_as_published():
    assert settings_of_mad() * TRIED == 396


def test_the_lite_runs_are_all_tasks_and_at_most_a_twentieth():
    recipes = lite()
    kinds = [recipe.task.kind for recipe in recipes]
    assert len(kinds) == len({*kinds}) == 6
    runs = sum(len(recipe.lr.plain()) for recipe in recipes)
    assert runs == 18
    assert runs <= 0.05 * settings_of_mad() * TRIED


@pytest.mark.parametrize(("name", "epochs"), [("mad", 200), ("mad_lite", 20)])
def test_mad_has_its_epochs(name, epochs):
    recipe = Recipe.load(RECIPES / f"{name}.yaml")
    assert recipe.steps * recipe.batch == epochs * 12_800
    assert round(recipe.size.mlp * recipe.size.width) == 352  # 8/3 of 128, up to a multiple of 16


def test_cells_of_mqar_have_64_epochs():
    """Those in the comment of the recipe, the first of which it is; a last batch may be short."""
    file = RECIPES / "mqar_zoology.yaml"
    cells = re.findall(r"^# +(\d+) +(\d+) +(\d+) +(\d+)$", file.read_text(), re.MULTILINE)
    assert [cell[:3] for cell in cells] == [
        ("64", "4", "512"),
        ("128", "8", "512"),
        ("256", "16", "256"),
        ("512", "64", "128"),
    ]
    recipes = []
    for length, pairs, batch, steps in cells:
        changed = [f"task.length={length}", f"task.pairs={pairs}", f"batch={batch}"]
        recipes.append(Recipe.load(file, [*changed, f"steps={steps}"]))
        assert recipes[-1].steps * recipes[-1].batch == pytest.approx(64 * 100_000, rel=0.01)
    assert recipes[0] == Recipe.load(file)


def test_the_anchor_is_the_first_cell_with_fewer_steps():
    first, anchor = (Recipe.load(RECIPES / f"mqar_{name}.yaml") for name in ("zoology", "anchor"))
    assert (anchor.task, anchor.size) == (first.task, first.size)
    assert {*anchor.lr.plain()} <= {*first.lr.plain()}
    assert first.steps * first.batch == 50 * anchor.steps * anchor.batch

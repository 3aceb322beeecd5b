"""What the documents show works: YAML loads, Python runs, tables name real fields and defaults."""

import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import miras_search
from miras_search import identities, registry
from miras_search.errors import UserError
from miras_search.identities import IDENTITIES
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Recipe
from miras_search.size import Match, Size
from miras_search.space import Space
from miras_search.variant import Variant
from miras_search.yaml_file import flow

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPACES = ROOT / "docs" / "spaces.md"


def blocks(file: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the line that it begins at."""
    text = file.read_text()
    fenced = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in fenced]


YAML = [
    pytest.param(text, id=f"{file.name}-{line}")
    for file in FILES
    for line, text in blocks(file, "yaml")
]


def test_there_are_examples():
    assert len(YAML) > 5
    assert blocks(ROOT / "README.md", "python")


@pytest.mark.parametrize("text", YAML)
def test_yaml_loads(text, tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(text)
    match text.partition("\n")[0]:
        case "# recipe":
            Recipe.load(file)
        case "# fragment":
            with pytest.raises(UserError):
                Space.load(file)
            with pytest.raises(UserError):
                Recipe.load(file)
        case _:
            Space.load(file)


@pytest.mark.parametrize("file", [f for f in FILES if blocks(f, "python")], ids=lambda f: f.name)
def test_python_runs(file, monkeypatch, tmp_path):
    """The blocks of a file one after another, as one module."""
    monkeypatch.chdir(tmp_path)
    # What an example registers is forgotten with it.
    for group in (*registry.CHOICES, "task"):
        monkeypatch.setitem(registry._kinds, group, registry.kinds(group))
    monkeypatch.setattr(identities.base, "IDENTITIES", [*IDENTITIES])
    module = ModuleType(f"example_{file.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = Backbone(Space.load("core").sample(random.Random(0)), Size(width=16), vocabulary=256)
    monkeypatch.setattr(miras_search, "load", lambda folder: model)
    for line, text in blocks(file, "python"):
        # Blank lines give errors the line of the document.
        exec(compile("\n" * (line - 1) + text, file, "exec", dont_inherit=True), module.__dict__)


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of docs/spaces.md, code marks taken off."""
    section = re.search(
        rf"^#+ {heading}\n(.*?)(?=^#|\Z)", SPACES.read_text(), re.MULTILINE | re.DOTALL
    )
    assert section, heading
    rows = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[2:]]


def fields(cls) -> dict[str, str]:
    """Every field that has a plain default, with the default as YAML."""
    found = {}
    for name, info in cls.model_fields.items():
        default = info.default
        if isinstance(default, str | int | float | tuple | None):
            found[name] = flow([*default] if isinstance(default, tuple) else default)
    return found


@pytest.mark.parametrize("group", [*registry.CHOICES, "task"])
def test_documented_kinds_have_these_fields(group):
    """Of each kind in a table; a new kind need not be in one."""
    told = {}
    for kind, field, _, default, _ in table(group):
        told.setdefault(kind, {}).update({field: default} if field else {})
    assert told
    for kind, defaults in told.items():
        assert defaults == fields(registry.find(group, kind)), kind


@pytest.mark.parametrize(
    ("heading", "cls", "elsewhere"),
    [
        ("Side fields", Variant, {*registry.CHOICES}),
        ("Recipe keys", Recipe, {"name", "task", "size", "lr"}),
        ("Size of the backbone", Size, set()),
        ("A fair comparison", Match, set()),
    ],
)
def test_documented_keys_are_all_keys(heading, cls, elsewhere):
    told = {key: default for key, _, default, _ in table(heading)}
    assert {*told} | elsewhere == {*cls.model_fields}
    plain = {name: default for name, default in told.items() if name not in elsewhere}
    assert plain == {n: default for n, default in fields(cls).items() if n not in elsewhere}


def test_default_learning_rate_is_the_one_told():
    told = {key: default for key, _, default, _ in table("Recipe keys")}
    assert told["lr"] == flow(Recipe.model_fields["lr"].default.plain())


def test_every_choice_and_published_model_is_set_against_its_paper():
    text = (ROOT / "docs" / "paper_alignment.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    here = " ".join(cell for row in rows for cell in row[:3])
    documented = {kind for axis in registry.CHOICES for kind, *_ in table(axis)}
    published = {file.stem for file in (ROOT / "spaces" / "published").glob("*.yaml")}
    assert not {name for name in documented | published if f"`{name}`" not in here}
    judged, column = [], None
    for row, below in pairwise([*rows, [""]]):
        if below[0].startswith("| ---"):  # a heading
            column = row.index("status") if "status" in row else None
        elif column is not None and not row[0].startswith("| ---"):
            judged.append(row[column])
    assert len(judged) > 60
    words = ("faithful", "deviation", "novel", "refused")
    assert not [status for status in judged if status.split(",")[0].split()[0] not in words]


def test_documented_identities_exist():
    section = SPACES.read_text().partition("it is trained once:\n\n")[2].partition("\n\n")[0]
    told = [line.removeprefix("- ") for line in section.splitlines()]
    assert len(told) > 5
    assert {*told} <= {known.statement for known in IDENTITIES}

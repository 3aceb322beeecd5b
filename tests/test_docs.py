"""What the documents show works: blocks run from top to bottom, tables name real fields.

sh      runs and prints the `text` block that follows it, numbers aside; one that begins with
        `# needs ...` is only read: its commands, files and keys exist; so is one that begins with
        `# takes ...`, and a slow test runs it on little
python  runs
yaml    loads as a space, or as its first line says: `# recipe`, or `# fragment`, which is
        neither; `saved as FILE` there keeps it for the blocks below
"""

import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from study_files import write

import miras_search
from miras_search import cli, commands, identities, reach, registry, samplers
from miras_search.benchmark.simulate import Settings
from miras_search.errors import UserError
from miras_search.identities import IDENTITIES
from miras_search.nn.backbone import Backbone
from miras_search.parsing import model as parsed
from miras_search.recipe import Recipe, load_pair
from miras_search.size import Match, Size
from miras_search.space import Space
from miras_search.study import total_trials
from miras_search.variant import Variant
from miras_search.yaml_file import Override, flow

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SPACES = ROOT / "docs" / "spaces.md"


def blocks(file: Path) -> list[tuple[str, int, str]]:
    """The fenced blocks, each with its language and the line that it begins at."""
    text = file.read_text()
    fenced = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(match[1], text[: match.start(2)].count("\n") + 1, match[2]) for match in fenced]


YAML = [
    pytest.param(text, id=f"{file.name}-{line}")
    for file in FILES
    for language, line, text in blocks(file)
    if language == "yaml"
]


def test_there_are_examples():
    found = Counter(language for file in FILES for language, *_ in blocks(file))
    assert {language for language, count in found.items() if count > 5} >= {"sh", "yaml", "python"}


@pytest.mark.parametrize("text", YAML)
def test_yaml_loads(text, tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(text)
    match text.split()[:2]:
        case ["#", "recipe" | "recipe,"]:
            Recipe.load(file)
        case ["#", "fragment"]:
            with pytest.raises(UserError):
                Space.load(file)
            with pytest.raises(UserError):
                Recipe.load(file)
        case _:
            Space.load(file)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader stands, with programs that only note their arguments."""
    for name in ("spaces", "recipes", "docs", "tests", "constraints.txt", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    note = "#!/bin/sh\nprintf '%s\\037' \"${0##*/}\" \"$@\" >> noted\nprintf '\\036' >> noted\n"
    for program in ("miras-search", "python", "pip", "make", "ray", "sbatch", "wandb"):
        file = tmp_path / "programs" / program
        file.parent.mkdir(exist_ok=True)
        file.write_text(note)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", [pytest.param(f, id=f.name) for f in FILES if blocks(f)])
def test_blocks_run(file, folder, monkeypatch, capsys):
    """One after another, Python as one module."""
    # What an example registers is forgotten with it.
    for group in (*registry.CHOICES, "task"):
        monkeypatch.setitem(registry._kinds, group, registry.kinds(group))
    monkeypatch.setattr(identities.base, "IDENTITIES", [*IDENTITIES])
    module = ModuleType(f"example_{file.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = Backbone(Space.load("core").sample(random.Random(0)), Size(width=16), vocabulary=256)
    load = miras_search.load
    monkeypatch.setattr(miras_search, "load", lambda of: load(of) if Path(of).exists() else model)
    printed, wrong = "", False
    for language, line, text in blocks(file):
        first = text.partition("\n")[0]
        # Where a command fails, what it says is shown.
        assert not wrong or text.startswith("error:"), (line, printed)
        wrong = False
        match language:
            case "yaml":
                save(text)
            case "python":
                # Blank lines give errors the line of the document.
                source = "\n" * (line - 1) + text
                exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
            case "sh" if re.match("# (takes|needs) ", first):
                with monkeypatch.context() as quick:
                    quick.setattr(Recipe, "check_data", lambda self: None)
                    quick.setattr(reach, "require", lambda *pair: None)
                    for words in calls(text):
                        read(words)
            case "sh":
                called = calls(text)
                assert {name for name, *_ in called} == {"miras-search"}, line
                codes = [cli.main(arguments) for _, *arguments in called]
                printed = "".join(capsys.readouterr())
                wrong = any(codes)
            case "text" if printed:
                assert not missing(text, printed), (line, missing(text, printed), printed)
                printed = ""
    assert not wrong, printed


def save(text: str) -> None:
    """Write a block that is saved as a file to that."""
    if named := re.search(r"^# .*saved as (\S+)\n", text):
        Path(named[1]).write_text(text)


LONG = [
    pytest.param(file, text, id=f"{file.parent.name}-{file.stem}-{line}")
    for file in FILES
    for language, line, text in blocks(file)
    if language == "sh" and text.startswith("# takes ") and "miras-search" in text
]
LITTLE = {"train_examples": 64, "eval_examples": 8, "further_examples": 2, "evaluate_episodes": 0}
LITTLE |= {"evaluate_at": (), "train_at": ()}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "text"), LONG)
def test_what_takes_long_runs_on_little(file, text, folder, monkeypatch, capsys):
    """Each command of this package, with a few trials of two steps on a few examples; but for those
    that need a server or a cluster."""
    whole = commands._run

    def short(space, recipe):
        task = recipe.task
        task = task.model_copy(update={k: v for k, v in LITTLE.items() if hasattr(task, k)})
        changes = {"task": task, "steps": 2, "evaluate": 1, "batch": 4, "wandb": "disabled"}
        changes |= {"trials": min(4, recipe.trials or 4), "finalists": 0, "pruner": "none"}
        return whole(space, recipe.model_copy(update=changes))

    monkeypatch.setattr(commands, "_run", short)
    for language, _, block in blocks(file):
        if language == "yaml":
            save(block)
    made = {word[4:] for words in calls(text) for word in words if word.startswith("out=")}
    for study in {*re.findall(r"runs/\w+", text)} - made:
        files = write(folder / "files")
        assert cli.main(["sweep", *files, f"out={study}", f"seed={len(study)}"]) == 0
    for program, *words in calls(text):
        if program == "miras-search" and words[0] != "sync" and "executor=ray" not in words:
            more = ["replays=2"] if words[0] == "simulate" else []
            assert cli.main([*words, *more]) == 0, (words, capsys.readouterr().err)


def calls(text: str) -> list[list[str]]:
    """The programs that a block of shell calls, each with its arguments."""
    Path("noted").write_text("")
    subprocess.run(["bash", "-euc", text], check=True)
    return [line.split("\x1f")[:-1] for line in Path("noted").read_text().split("\x1e")[:-1]]


def read(words: list[str]) -> None:
    """Check a command without running it."""
    named = [word for word in words if re.search(r"\.(py|txt|toml)$", word)]
    assert not [file for file in named if not Path(file).exists()]
    match words:
        case ["python", "-m", name, *_]:
            assert find_spec(name)
        case ["pip", "install", *packages]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            asked = re.findall(r"\[(.+?)\]", " ".join(packages))
            assert {*asked} <= {*extras["optional-dependencies"]}
        case ["make", *targets]:
            told = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {*targets} <= {*told}
        case ["ray", *rest]:
            assert all(Path(word).exists() for word in rest if word.startswith("docs/"))
        case ["sbatch", *rest]:
            script = next(i for i, word in enumerate(rest) if not word.startswith("-"))
            assert Path(rest[script]).exists()
            read(["miras-search", "sweep", *rest[script + 1 :]])
        case ["miras-search", *arguments]:
            given = vars(cli._parser().parse_args(arguments))
            space = given.get("space") or given.get("variant") or "core"
            if "overrides" in given:
                space = "yaad" if space.startswith("runs/") else space  # a study's best
                pair = load_pair(space, given.get("recipe", "bytes"), given["overrides"])
                if arguments[0] == "sweep" and reach.uncountable(*pair):
                    assert total_trials(*pair)
                assert samplers.find(pair[1].sampler).learns or not pair[1].warm_start
            if "replays" in given:
                changes = [Override.parse(text) for text in given["replays"]]
                parsed(Settings, {change.path[0]: change.value for change in changes})


def missing(shown: str, printed: str) -> set[str]:
    """What is shown and was not printed: lines of errors, words of all else, in any order."""
    parts = r".+" if shown.startswith("error: ") else r"[^\W\d]{2,}"
    return {*re.findall(parts, shown)} - {*re.findall(parts, printed)}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of docs/spaces.md, code marks taken off."""
    text = re.sub(r"^```.*?^```$", "", SPACES.read_text(), flags=re.MULTILINE | re.DOTALL)
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
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


def test_what_a_resume_may_change_is_listed():
    (told,) = re.findall(
        r"^- A study is resumed with other (.*?)\.\s", SPACES.read_text(), re.M | re.S
    )
    recipe = Recipe.load("bytes")
    free = {*recipe.to_dict()} - {*recipe.deciding()} - {"name", "out", "warm_start"}
    assert {*re.findall(r"`(\w+)`", told)} == free - {"match", "devices"}


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

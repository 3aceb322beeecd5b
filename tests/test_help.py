"""The command line that teaches: examples of --help that run, near misses, and the TAB key."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from often import often
from study_files import run, write

from miras_search import cli
from miras_search.commands import COMMANDS, Command
from miras_search.shipped import PUBLISHED, RECIPES

CHEAP = ("watch", "report", "show", "list", "replay", "compare", "merge", "export", "table")
"""Commands whose example takes a second or so, in a folder with the studies that it names; that of
`plan` times what it would train."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    folder = tmp_path_factory.mktemp("study")
    done = run("sweep", *write(folder), f"out={folder / 'out'}", "steps=2", "trials=4")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def told(command: Command, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([command.name, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"miras-search {metadata.version('miras-search')}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help_has_an_example_that_parses(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    help = told(command, capsys)
    (example,) = re.findall(r"^  miras-search (.*)$", help, re.MULTILINE)
    words = shlex.split(example)
    assert words[0] == command.name
    options = cli._parser().parse_args(words)
    assert options.run is command.run
    assert all(getattr(options, argument) for argument in command.arguments)
    assert "results:" in help
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert f"  miras-search {example}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", often(CHEAP, ["plan"]))
def test_cheap_examples_run(
    name: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "best", "more"):
        shutil.copytree(study, tmp_path / "runs" / folder, symlinks=True)
    (command,) = [command for command in COMMANDS if command.name == name]
    before = {*tmp_path.rglob("*")}
    assert cli.main(shlex.split(command.example)) == 0
    if "nothing is written" in command.results or "stays as it is" in command.results:
        assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("swep", "core", "bytes"), "unknown command 'swep': did you mean 'sweep'?"),
        (("xyz",), "unknown command 'xyz': expected one of: compare, export"),
        (("sweep", "core", "byts"), "did you mean 'bytes'?"),
        (("plan", "core", "bytes", "traisl=2"), "did you mean 'trials'?"),
        (("plan", "core", "bytes", "size.widht=2"), "did you mean 'width'?"),
        (("show", "yaad", "widht=2"), "did you mean 'width'?"),
        (("simulate", "recall", "replay=2"), "did you mean 'replays'?"),
    ],
)
def test_a_near_miss_is_told(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert not said.out


COMPLETE = """
eval "$({python} -m argcomplete.scripts.register_python_argcomplete miras-search)"
read -ra COMP_WORDS <<< "$LINE"
[[ $LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE=$LINE COMP_POINT=${{#LINE}}
_python_argcomplete miras-search "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def offered(line: str, folder: Path) -> set[str]:
    """What bash offers where TAB is pressed behind `line`."""
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = COMPLETE.format(python=shlex.quote(sys.executable))
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": where, "LINE": line, "COMP_TYPE": "9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr, done.stderr
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "runs").mkdir()
    commands = {command.name for command in COMMANDS}
    assert commands <= offered("miras-search ", tmp_path)
    assert offered("miras-search sw", tmp_path) == {"sweep"}
    published = {file.stem for file in PUBLISHED.glob("*.yaml")}
    assert published < offered("miras-search show ", tmp_path)
    recipes = offered("miras-search sweep core ", tmp_path)
    assert {file.stem for file in RECIPES.rglob("*.yaml")} < recipes
    assert "mine.yaml" in recipes
    assert "notes.txt" not in recipes
    assert offered("miras-search sweep core bytes tri", tmp_path) == {"trials="}
    assert offered("miras-search watch ru", tmp_path) == {"runs/"}
    assert offered("miras-search list ta", tmp_path) == {"tasks"}

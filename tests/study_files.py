"""A sweep small enough to run many times: the files, and how to run them."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from miras_search.cli import main
from miras_search.folder import StudyFolder
from miras_search.recipe import load_pair
from miras_search.record import Point, TrialRecord
from miras_search.study import Study
from miras_search.trial import TrialSpec

SPACE = """\
memory: [matrix, {kind: mlp, expansion: 1}]
bias: [l2, dot]
retention: none
algorithm: gd
chunk: 4
heads: 2
"""

MANY = """
memory: [matrix, {kind: mlp, expansion: [1, 2]}]
bias: [l2, {kind: lp, p: [1.5, 3, 4]}]
retention: l2
algorithm: [gd, momentum]
heads: 2
"""
"""24 variants: at the two rates of `RECIPE` 48 points."""

RECIPE = """\
task:
  kind: mqar
  length: 16
  pairs: 2
  vocab: 64
  train_examples: 64
  eval_examples: 16
size: {width: 8, layers: 1, mlp: 1.0}
steps: 6
batch: 8
evaluate: 3
lr: [1e-3, 1e-2]
sampler: grid
workers: 1
wandb: disabled
"""


def write(folder: Path, space: str = SPACE, recipe: str = RECIPE) -> tuple[str, str]:
    """The two files of a sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(space)
    (folder / "recipe.yaml").write_text(recipe)
    return str(folder / "space.yaml"), str(folder / "recipe.yaml")


def begin(folder: Path, *overrides: str, space: str = SPACE) -> Study:
    """A study of them, as a sweep opens it."""
    return Study.begin(*load_pair(*write(folder, space), [f"out={folder / 'out'}", *overrides]))


def command(*arguments: str) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "miras_search", *arguments]


def apart(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, as a process."""
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it in this process, which has imported already what takes seconds."""
    with (
        chdir(cwd or Path.cwd()),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        try:
            code = main(arguments)
        except SystemExit as ended:  # of argparse
            code = ended.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def results(folder: Path) -> list[dict]:
    """What trials found, without when and how long."""
    volatile = {"seconds", "started", "threads", "curve", "recipe"}
    return [
        record.model_dump(exclude=volatile)
        | {"curve": [p.model_dump(exclude={"seconds"}) for p in record.curve]}
        for record in StudyFolder(folder).records()
    ]


class Silent:
    """A view that only remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def started(self, spec: TrialSpec) -> None:
        self.events.append(("started", spec.number))

    def point(self, number: int, point: Point) -> None:
        self.events.append(("point", number))

    def lost(self, spec: TrialSpec) -> None:
        self.events.append(("lost", spec.number))

    def finished(self, record: TrialRecord) -> None:
        self.events.append(("finished", record.number))

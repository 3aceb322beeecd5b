"""A package of somebody else, really built and installed, whose bias shows up everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-biases"
version = "1.0"

[project.entry-points."miras_search.components"]
theirs = "their_biases"

[tool.setuptools]
py-modules = ["their_biases"]
"""

MODULE = '''
"""The log-cosh loss."""

from typing import ClassVar

from miras_search.bias.base import Bias
from miras_search.registry import register


@register
class LogCosh(Bias):
    """Quadratic for small residuals, absolute for large ones."""

    kind: ClassVar[str] = "log_cosh"
    equation: ClassVar[str] = "l = sum log cosh(M(k) - v)"
    source: ClassVar[str] = "a test"

    def loss(self, pred, target, gates):
        r = (pred - target).abs()
        return (r + (-2 * r).exp().log1p() - 0.6931471805599453).sum(-1)

    def gradient(self, pred, target, gates):
        return (pred - target).tanh()
'''

SPACE = """
memory: [matrix, mlp]
bias: [log_cosh, l2]
retention: none
algorithm: gd
chunk: 4
"""

CONFORMANCE = """
from miras_search import registry
from miras_search.testing import cases_of, check_bias, check_variant, variant_with
for bias in cases_of(registry.find("bias", "log_cosh")):
    check_bias(bias)
    check_variant(variant_with(bias, chunk=4))
print("conforms")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs this Python where the package is installed."""
    folder = tmp_path_factory.mktemp("theirs")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "their_biases.py").write_text(MODULE)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    quiet = ["--disable-pip-version-check", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, *install, *quiet, str(source)], check=True)

    def run(*words, cwd=folder):
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_is_listed_beside_ours(python):
    listed = json.loads(python("-m", "miras_search", "list", "--json"))
    assert "log_cosh" in listed["bias"]
    told = python("-m", "miras_search", "list")
    assert "l = sum log cosh(M(k) - v)" in told


def test_it_can_be_searched_and_shown(python, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    told = python(
        "-c",
        "import sys; from miras_search import Space; space = Space.load(sys.argv[1]);"
        "print(space.size, sorted({v.bias.kind for v in space.enumerate()}))",
        str(tmp_path / "space.yaml"),
    )
    assert told.strip() == "4 ['l2', 'log_cosh']"
    (tmp_path / "one.yaml").write_text(SPACE.replace("[matrix, mlp]", "mlp").replace(", l2]", "]"))
    shown = json.loads(python("-m", "miras_search", "show", str(tmp_path / "one.yaml"), "--json"))
    assert shown["equation"]["bias"] == "l = sum log cosh(M(k) - v)"


def test_it_passes_the_shipped_conformance_suite(python):
    assert python("-c", CONFORMANCE).strip() == "conforms"


def test_a_package_that_cannot_be_loaded_is_named(python, tmp_path):
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-biases\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[miras_search.components]\nb = nowhere_to_be_found\n")
    done = subprocess.run(
        [sys.executable, "-m", "miras_search", "list"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "broken-biases: its components 'nowhere_to_be_found' cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_trains(python, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    out = tmp_path / "out"
    recipe = str(ROOT / "recipes" / "recall.yaml")
    small = ["task.length=16", "task.pairs=2", "task.vocab=64", "task.evaluate_at=[]"]
    small += ["task.train_examples=64", "task.eval_examples=16", "batch=8", "steps=4"]
    words = ["size.width=8", "lr=1e-2", "trials=4", "wandb=disabled", f"out={out}"]
    python("-m", "miras_search", "sweep", str(tmp_path / "space.yaml"), recipe, *small, *words)
    rows = (out / "leaderboard.csv").read_text().splitlines()
    assert len(rows) == 5
    assert sum("log_cosh" in row for row in rows) == 2

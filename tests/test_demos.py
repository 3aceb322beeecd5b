"""The demonstrations run on freshly trained trials, and say what is so."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from miras_search import load
from miras_search.recipe import Recipe
from miras_search.trial import TrialSpec, run
from miras_search.variant import Variant

ROOT = Path(__file__).parent.parent
DEMOS = ROOT / "docs" / "demos"
VARIANT = Variant.from_dict(
    {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd", "heads": 2}
)


def trained(folder, task):
    """The folder of a trial of a few steps."""
    recipe = Recipe.from_dict(
        {"task": task, "size": {"width": 16, "layers": 2}, "steps": 3, "batch": 4, "evaluate": 1}
        | {"lr": 1e-2, "wandb": "disabled"}
    )
    spec = TrialSpec(
        number=0,
        variant=VARIANT.to_dict(),
        recipe=recipe.to_dict(),
        lr=1e-2,
        seed=0,
        study="demo",
        folder=str(folder),
        cwd=str(ROOT),
    )
    assert run(spec).state == "complete"
    return str(folder)


def demo(name, *given):
    script = [sys.executable, DEMOS / f"{name}.py", *map(str, given)]
    return subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)


def test_surprise_draws_a_text(tmp_path):
    trial = trained(tmp_path / "trial", {"kind": "bytes", "length": 32, "max_bytes": 400_000})
    done = demo("surprise", trial, ROOT / "README.md", tmp_path / "figure.svg")
    assert done.returncode == 0, done.stderr
    assert "mean loss of 480 bytes: layer 1: " in done.stdout
    drawn = ElementTree.parse(tmp_path / "figure.svg")
    assert len(list(drawn.iter())) > 480


def test_a_memory_goes_on_tomorrow(tmp_path):
    task = {"kind": "continual", "episodes": 2, "items": 2, "questions": 2, "vocab": 64}
    task |= {"train_examples": 20, "eval_examples": 20, "evaluate_episodes": 6}
    done = demo("tomorrow", trained(tmp_path / "trial", task))
    assert done.returncode == 0, done.stderr
    assert len(set(re.findall(r"process (\d+)", done.stdout))) == 2
    told = re.findall(r"episode \d: ([\d.]+) \(([\d.]+) if read in one go\)", done.stdout)
    assert len(told) == 6
    assert all(one == two for one, two in told)


@pytest.mark.slow
def test_a_needle_is_looked_for_with_a_constant_state(tmp_path):
    task = {"kind": "needle", "form": "passkey", "length": 192, "digits": 3}
    trial = trained(tmp_path / "trial", task | {"train_examples": 20, "eval_examples": 20})
    done = demo("needle", trial, 20_000)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"depth ([\d.]+): told b'(\d+)', wrote b['\"](.*)['\"]: (\w+)", done.stdout)
    assert [depth for depth, *_ in found] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert all((told == said) == (verdict == "right") for _, told, said, verdict in found)
    right = sum(verdict == "right" for *_, verdict in found)
    assert f"{right} of 5 right at 20,000 bytes;" in done.stdout
    first, last = re.findall(r"took ([\d,]+) bytes at first, ([\d,]+) at the end", done.stdout)[0]
    assert first == last
    # Piece by piece is the same as in one go.
    needle = runpy.run_path(str(DEMOS / "needle.py"))
    _, tokens, answers = needle["texts"](trial, 20_000)
    model = load(trial)
    expected, _ = model.generate(tokens, 3, temperature=0)
    assert needle["answer"](model, tokens, 3)[0].equal(expected)
    assert [bytes(x).decode() for x in answers.tolist()] == [told for _, told, *_ in found]


def test_a_needle_needs_a_trial_on_needles(tmp_path):
    trial = trained(tmp_path / "trial", {"kind": "parity", "length": 16})
    done = demo("needle", trial)
    assert done.returncode == 1
    assert "expected a trial on `needle`, got one on `parity`" in done.stderr


@pytest.mark.parametrize("name", ["needle", "surprise", "tomorrow"])
def test_usage_is_told(name):
    done = demo(name)
    assert done.returncode == 1
    assert f"python docs/demos/{name}.py TRIAL" in done.stderr

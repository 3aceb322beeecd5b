"""The command line as a user meets it: a process, its output, its exit code, its files."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from study_files import RECIPE, SPACE, apart, command, results, run, write

import miras_search
from miras_search import registry
from miras_search.folder import StudyFolder
from miras_search.recipe import load_pair
from miras_search.shipped import PUBLISHED
from miras_search.study import Study
from miras_search.testing import combinations
from miras_search.trial import run as run_trial

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished sweep, with wandb offline."""
    folder = tmp_path_factory.mktemp("study")
    arguments = ("sweep", *write(folder), f"out={folder / 'out'}", "wandb=offline", "workers=2")
    done = apart(*arguments)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def leaderboard(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))


def test_a_sweep_ends_with_a_leaderboard_and_its_files(study: Path) -> None:
    told = (study / "stdout").read_text()
    assert "8/8" in told
    assert "8 of 8 trials completed" in told
    assert str(study / "out" / "report.html") in told
    assert (study / "stderr").read_text() == ""
    rows = leaderboard(study / "out")
    assert len(rows) == 8
    wanted = {"trial", "digest", "variant", "state", "score", "parameters", "seconds"}
    assert wanted <= set(rows[0])
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert "<svg" in (study / "out" / "report.html").read_text()


def test_the_best_checkpoint_is_the_model_that_was_scored(study: Path) -> None:
    folder = StudyFolder(study / "out")
    best = max(folder.records(), key=lambda r: (r.score, -r.number))
    model = miras_search.load(study / "out" / "best")
    assert sum(p.numel() for p in model.parameters()) == best.parameters
    task = folder.recipe.task
    examples = [task.dataset("validation", best.seed)[i] for i in range(16)]
    tokens, targets = (torch.stack(x) for x in zip(*examples, strict=True))
    with torch.no_grad():
        said = model(tokens)[0].argmax(-1)
    scored = targets != -100
    accuracy = (said == targets)[scored].float().mean().item()
    assert accuracy == pytest.approx(best.metrics["validation/accuracy"], abs=1e-6)
    weights = sorted(p.parent.name for p in (study / "out" / "trials").glob("*/*.safetensors"))
    assert weights == [f"{best.number:05d}"]


def test_all_weights_are_kept_if_asked_for_until_they_are_not(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def kept() -> list[int]:
        return sorted(int(p.parent.name) for p in out.glob("trials/*/model.safetensors"))

    wanted = ["trials=3", "steps=2", "weights=all"]
    done = run("sweep", *write(tmp_path), f"out={out}", *wanted)
    assert done.returncode == 0, done.stderr
    assert kept() == [0, 1, 2]
    folder = StudyFolder(out)
    best = max(folder.records(), key=lambda r: (r.score, -r.number))
    assert folder.best_checkpoint.resolve() == folder.trial(best.number).resolve()
    done = run("resume", str(out), "weights=best", "trials=4")
    assert done.returncode == 0, done.stderr
    assert len(kept()) == 1


def test_the_best_variant_can_be_shown_and_trained(study: Path, tmp_path: Path) -> None:
    best = str(study / "out" / "best.yaml")
    shown = json.loads(run("show", best, "--json", "width=8", "layers=1", "mlp=1").stdout)
    rows = leaderboard(study / "out")
    assert shown["digest"] == rows[0]["digest"]
    assert shown["state_bytes"] == int(rows[0]["state_bytes"])
    out = tmp_path / "out"
    _, recipe = write(tmp_path, recipe=RECIPE + "finalists: 2\nseeds: 3\n")  # and train no finals
    done = run("train", best, recipe, f"lr={rows[0]['lr']}", f"out={out}")
    assert done.returncode == 0, done.stderr
    assert [r["score"] for r in results(out)] == [float(rows[0]["score"])]
    refused = run("train", best, recipe, f"out={tmp_path / 'no'}")
    assert refused.returncode == 2
    assert "lr" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_running_again_and_resume_do_not_train_again(study: Path) -> None:
    out = study / "out"
    before = {f: f.read_bytes() for f in out.glob("trials/*/record.json")}
    for arguments in (
        ("sweep", str(study / "space.yaml"), str(study / "recipe.yaml"), f"out={out}"),
        ("resume", str(out)),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert {f: f.read_bytes() for f in out.glob("trials/*/record.json")} == before


def test_resume_takes_a_larger_budget(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("sweep", *write(tmp_path), f"out={out}", "trials=1").returncode == 0
    assert run("resume", str(out), "trials=2").returncode == 0
    assert len(results(out)) == 2


def test_report_writes_the_files_again(study: Path) -> None:
    out = study / "out"
    leaderboard = (out / "leaderboard.csv").read_text()
    (out / "leaderboard.csv").unlink()
    (out / "report.html").unlink()
    assert run("report", str(out)).returncode == 0
    assert (out / "leaderboard.csv").read_text() == leaderboard
    assert (out / "report.html").is_file()


def test_wandb_has_a_run_for_each_trial_and_one_for_the_study(study: Path) -> None:
    """Written by wandb, read back by wandb."""
    out = study / "out"
    identity = json.loads((out / "study.json").read_text())["id"]
    runs = {}
    for file in (out / "wandb").glob("offline-run-*/*.wandb"):
        read = subprocess.run(
            [command()[0], "-m", "wandb", "leet", "inspect", "--json", str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
        runs[file.stem.removeprefix("run-")] = read.stdout
    trials = {f"{identity}-trial-{number}" for number in range(8)}
    assert set(runs) == trials | {f"{identity}-summary"}
    for record in StudyFolder(out).records():
        told = runs[f"{identity}-trial-{record.number}"]
        assert record.digest in told
        assert told.count('"type":"history"') == len(record.curve) == 3
        assert identity in told
        assert str(record.score) in told
        last = record.curve[-1].surprise
        assert all(f"surprise/{name}" in told and str(x) in told for name, x in last.items())
        assert bool(last) == (record.variant["memory"] != "attention")
    assert "leaderboard" in runs[f"{identity}-summary"]


def test_no_secret_of_the_environment_reaches_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("WANDB_NOTES", "what a worker sees")
    out = tmp_path / "out"
    arguments = ("sweep", *write(tmp_path), f"out={out}", "trials=1", "wandb=offline")
    assert run(*arguments).returncode == 0
    files = [f.read_bytes() for f in out.rglob("*") if f.is_file()]
    assert any(b"what a worker sees" in content for content in files)
    assert not any(b"0123456789abcdef0123456789abcdef01234567" in content for content in files)


def test_plan_counts_before_anything_trains(tmp_path: Path) -> None:
    space = SPACE.replace("[l2, dot]", "[l2, {kind: lp, p: 2}, dot]")
    files = write(tmp_path, space + "where: [memory.kind == 'mlp' or bias.kind != 'dot']\n")
    done = run("plan", *files, "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    # matrix with l2; mlp with l2 and dot: lp with p = 2 is l2.
    assert facts["feasible"] == 3
    assert facts["trials"] == 6
    assert sum(facts["rejected"].values()) == 1
    assert facts["seconds"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml", "space.yaml"]
    told = run("plan", *files, "sampler=tpe", cwd=tmp_path).stdout
    assert "sampler tpe, pruner forecast" in told
    assert "3 distinct feasible variants" in told
    assert "6 trials" in told
    assert "where:" in told


def test_list_is_the_registry() -> None:
    listed = json.loads(run("list", "--json").stdout)
    counts = listed.pop("combinations")
    assert listed == {axis: list(registry.kinds(axis)) for axis in registry.CHOICES}
    assert counts["all"] == math.prod(len(listed[axis]) for axis in registry.AXES)
    assert counts["legal"] == len(list(combinations()))
    assert "mqar" in json.loads(run("list", "tasks", "--json").stdout)["task"]
    published = json.loads(run("list", "published", "--json").stdout)
    assert "2504.13173" in published["yaad"]["source"]
    assert all(entry["source"] for entry in published.values())
    assert published["atlas"]["degree"] == 2
    shown = run("list").stdout
    for axis, kinds in listed.items():
        assert all(kind in shown for kind in kinds), axis
    assert "expansion, activation" in shown


def test_a_published_model_is_shown_by_its_name() -> None:
    named, filed = (run("show", v, "--json") for v in ("yaad", str(PUBLISHED / "yaad.yaml")))
    assert named.stdout == filed.stdout
    assert json.loads(named.stdout)["bias"] == "huber(per=channel)"


@pytest.mark.parametrize("arguments", [("--help",), ("list",)])
def test_a_question_is_answered_in_a_second(arguments: tuple[str, ...]) -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        assert apart(*arguments).returncode == 0
        times.append(time.monotonic() - began)
    assert min(times) < 1
    heavy = "import sys; from miras_search.cli import main; main(['list']); "
    heavy += "print({'torch', 'ray', 'wandb', 'optuna'} & set(sys.modules))"
    told = subprocess.run([command()[0], "-c", heavy], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "set()"


BAD = {
    "a misspelt key of the space": (SPACE + "retension: l2\n", RECIPE, "space.yaml:7: retension"),
    "an unknown kind": (SPACE.replace("l2,", "l22,"), RECIPE, "did you mean 'l2'?"),
    "a wrong type": (SPACE, RECIPE.replace("steps: 6", "steps: six"), "recipe.yaml:9: steps"),
    "an empty choice": (SPACE.replace("[l2, dot]", "[]"), RECIPE, "space.yaml:2: bias"),
    "nothing feasible": (SPACE + "where: [chunk == 5]\n", RECIPE, "no feasible variant"),
    "a width that does not divide": (SPACE, RECIPE.replace("width: 8", "width: 9"), "2 heads"),
    "no corpus": (
        SPACE,
        RECIPE.replace("kind: mqar", "kind: bytes\n  files: nowhere/*.txt").replace(
            "  pairs: 2\n  vocab: 64\n", ""
        ),
        "recipe.yaml:3: task.files: ",
    ),
    "an address without Ray": (SPACE, RECIPE + "address: here:1\n", "recipe.yaml:16: address"),
    "no folder": (SPACE, RECIPE + "out: ''\n", "out: expected text that is not empty"),
    "code": (SPACE + "where: [\"__import__('os').system('touch HACKED')\"]\n", RECIPE, ":7: where"),
    "a resolver": (SPACE + "name: ${oc.env:HOME}\n", RECIPE, "space.yaml:7"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_writes_nothing(case: str, tmp_path: Path) -> None:
    space, recipe, expected = BAD[case]
    files = write(tmp_path, space, recipe)
    done = run("sweep", *files, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml", "space.yaml"]


def test_all_problems_of_both_files_come_at_once(tmp_path: Path) -> None:
    files = write(tmp_path, SPACE + "chunks: 3\n", RECIPE + "stepps: 3\nwokers: 2\n")
    done = run("sweep", *files, "btch=3", "nonsense", cwd=tmp_path)
    assert done.returncode == 2
    for expected in ("chunks", "stepps", "wokers", "btch", "nonsense"):
        assert expected in done.stderr
    assert done.stderr.count("error: ") == 5


@pytest.mark.parametrize(
    "arguments",
    [("report", "nowhere"), ("resume", "."), ("show", "no.yaml"), ("report", "too-long" * 40)],
)
def test_what_is_not_there_is_said(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_report_needs_no_terminal_that_knows_all_letters(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its path have to be UTF-8."""
    here = tmp_path / os.fsdecode(b"bad\xff")
    shutil.copytree(study / "out", here, symlinks=True)
    before = {file.name for file in here.iterdir()}
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = apart("report", str(here))
    assert (done.returncode, done.stderr) == (0, "")
    assert "bad" in done.stdout
    assert {file.name for file in here.iterdir()} == before | {"report.html", "figures"}


def test_a_trial_has_no_number_of_thousands_of_digits(study: Path) -> None:
    done = run("replay", str(study / "out"), "9" * 5000)
    assert done.returncode == 2
    assert done.stderr.startswith("error: trial: expected the number of a trial, got '999")


def test_a_number_below_zero_is_no_flag(tmp_path: Path) -> None:
    done = run("replay", str(tmp_path), "-1")
    assert done.stderr == "error: trial: expected the number of a trial, got '-1'\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("word", "missing"),
    [("watch", "STUDY"), ("plan", "SPACE, RECIPE"), ("show", "VARIANT"), ("simulate", "TABLE")],
)
def test_only_what_is_required_is_missed(word: str, missing: str) -> None:
    done = run(word)
    assert done.returncode == 2
    assert done.stderr.endswith(f"the following arguments are required: {missing}\n")


def test_an_out_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    files = write(tmp_path)
    for out in (f"{files[0]}/below", "/proc/nothing/here"):
        done = run("sweep", *files, f"out={out}", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["study.json", "journal.log", "trials/00001/record.json"])
def test_a_damaged_study_is_named(name: str, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out, symlinks=True)
    content = (out / name).read_text()
    (out / name).write_text(content[:100] + "\n{damage" + content[100:])
    done = run("resume", str(out))
    assert done.returncode == 2, done.stderr
    assert str(out / name) in done.stderr
    assert "Traceback" not in done.stderr


def test_what_stands_in_the_way_of_a_report_is_named(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study / "out", out, symlinks=True)
    record = out / "trials" / "00001" / "record.json"
    whole = json.loads(record.read_text())

    def problem(where: str = str(out)) -> str:
        done = run("report", where)
        assert done.returncode == 2, done.stderr
        assert not done.stdout
        (line,) = done.stderr.splitlines()
        return line

    for change, told in (
        ({"variant": whole["variant"] | {"bias": {"kind": "huver"}}}, "did you mean 'huber'?"),
        ({"recipe": {}}, "expected a recipe with a size"),
    ):
        record.write_text(json.dumps(whole | change))
        assert str(record) in problem()
        assert told in problem()
    record.write_text(json.dumps(whole))
    assert problem("").startswith("error: '': not a study folder")
    shutil.rmtree(out / "figures")
    (out / "figures").write_text("not a folder")
    done = run("report", str(out))
    assert done.returncode == 2
    assert f"error: {out / 'figures'}" in done.stderr
    (out / "study.json").write_text("{}")
    told = "expected what a sweep wrote there: 'name' is not in it"
    assert problem() == f"error: {out / 'study.json'}: {told}"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run("sweep", *write(tmp_path), "accelerator=gpu", cwd=tmp_path)
    assert done.returncode == 2
    assert "accelerator: gpu" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [("show", "yaad"), ("simulate", "recall", "replays=2", "methods=[random]", "budget=0.05")],
)
def test_who_reads_no_further_ends_a_command_without_a_fault(tmp_path: Path, words: tuple) -> None:
    line = f"{shlex.join(command(*words))} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_devices_that_are_not_there_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miras_search.sweep.cores", lambda: 3)
    for executor in ("local", "ray"):
        how = ("devices=4", "batch=4", "accelerator=cpu", f"executor={executor}")
        done = run("sweep", *write(tmp_path), *how, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "error: devices: 4, but this machine has 3 CPUs\n"
        assert not (tmp_path / "runs").exists()


SPACES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "spaces").rglob("*.yaml"))
RECIPES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "recipes").rglob("*.yaml"))
HERE = [file for file in RECIPES if "/sizes/" not in file]
"""Recipes of models that can be built anywhere; of the others see test_sizes.py."""


@pytest.mark.parametrize("file", SPACES)
def test_every_space_runs(file: str, tmp_path: Path) -> None:
    _, recipe = write(tmp_path)
    small = (
        "size.width=16",
        "size.layers=2",
        "steps=2",
        "evaluate=1",
        "trials=3",
        "sampler=random",
    )
    few_steps(tmp_path, str(ROOT / file), recipe, *small)


@pytest.mark.parametrize("file", RECIPES)
def test_every_recipe_goes_with_the_core_space(file: str) -> None:
    """Both are valid, heads share the width, and the data can be had."""
    _, recipe = load_pair("core", str(ROOT / file))
    assert recipe.name == Path(file).stem


@pytest.mark.parametrize("file", HERE)
def test_every_recipe_runs(file: str, tmp_path: Path) -> None:
    space, _ = write(tmp_path, SPACE.replace("chunk: 4", "chunk: 64"))  # texts are long
    small = ["steps=2", "evaluate=1", "trials=1", "task.eval_examples=8", "wandb=disabled"]
    if "/reproduce/" in file:  # published batches are for larger machines
        small.append("batch=4")
    for field, few in (("further_examples", 1), ("train_examples", 64)):
        if f"{field}:" in (ROOT / file).read_text():
            small.append(f"task.{field}={few}")
    few_steps(tmp_path, space, str(ROOT / file), *small)


def few_steps(folder: Path, *arguments: str) -> None:
    """The first trials of a sweep, in this process."""
    space, recipe, *overrides = arguments
    with Study.begin(*load_pair(space, recipe, [*overrides, f"out={folder / 'out'}"])) as study:
        while (spec := study.ask()) is not None:
            record = run_trial(spec)
            assert record.state == "complete", record.reason
            study.tell(record)
        assert study.records

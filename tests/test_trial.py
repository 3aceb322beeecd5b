"""One trial: what is recorded of it, and that its record is enough to run it again."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from study_files import SPACE, Silent, begin, results, run

from miras_search.executor import cores, local
from miras_search.folder import WEIGHTS, StudyFolder
from miras_search.lit import Batch, MemoryModule
from miras_search.lower import compiled
from miras_search.record import TrialRecord
from miras_search.replay import replay
from miras_search.study import Study
from miras_search.trial import outcome
from miras_search.trial import run as run_trial


def test_what_ran_is_what_the_record_says(tmp_path: Path) -> None:
    """Each trial, run again from its record alone, gives the same curve and metrics."""
    view = Silent()
    with begin(tmp_path, "trials=3", "workers=2") as study:
        local.execute(study, 2, view)
    first = results(tmp_path / "out")
    assert [r["state"] for r in first] == ["complete"] * 3
    assert len({r["score"] for r in first} | {str(r["curve"]) for r in first}) > 1
    assert [e for e in view.events if e[0] != "point"].count(("finished", 0)) == 1
    assert ("point", 0) in view.events
    folder = StudyFolder(tmp_path / "out")
    for number in range(3):
        assert replay(folder, number, Console(file=io.StringIO()))
    assert results(tmp_path / "out") == first

    # One digit is enough, wherever it is.
    record = folder.records()[1]
    point = record.curve[0]
    for other in (
        record.model_copy(update={"metrics": record.metrics | {"test/accuracy": 0.123}}),
        record.model_copy(
            update={
                "curve": (
                    point.model_copy(update={"train_loss": math.nextafter(point.train_loss, 9)}),
                    *record.curve[1:],
                )
            }
        ),
    ):
        other.write(folder.record_file(1))
        done = run("replay", str(folder.path), "1")
        assert done.returncode == 1, done.stderr
        assert done.stdout.endswith("Not the same.\n")
    missing = run("replay", str(folder.path), "7")
    assert missing.returncode == 2
    assert "expected a finished trial" in missing.stderr


def test_a_record_says_why_nothing_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process in which it has failed before."""
    monkeypatch.setattr(compiled, "_FAILURES", ["no compiler at all"])
    with begin(tmp_path, "compile=true", "trials=8") as study:
        specs = [spec for spec in iter(study.ask, None) if spec.variant["bias"]["kind"] == "l2"]
    records = {r.variant["memory"]["kind"]: r for r in map(run_trial, specs)}
    deep = records["mlp"]
    assert (deep.state, deep.lowering) == ("complete", "chunked")
    assert deep.reason == "not compiled, so slower: no compiler at all"


def test_a_replay_shows_reasons_as_they_are(tmp_path: Path) -> None:
    """Not as markup of the terminal."""
    with begin(tmp_path, "trials=1") as study:
        spec = study.ask()
        assert spec
        record = outcome(spec, "failed", "[enforce fail at x.cpp:1] in [/data/x]")
        record.write(study.folder.record_file(0))
        study.tell(record)
    shown = io.StringIO()
    assert not replay(study.folder, 0, Console(file=shown, width=200))
    assert "recorded: failed -: [enforce fail at x.cpp:1] in [/data/x]" in shown.getvalue()


def test_a_trial_that_was_stopped_is_replayed_to_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "hear", lambda self, number, point: "enough" if number else None)
    with begin(tmp_path, "trials=2") as study:
        local.execute(study, 1, Silent())
    folder = StudyFolder(tmp_path / "out")
    assert [record.state for record in folder.records()] == ["complete", "pruned"]
    assert [record.threads for record in folder.records()] == [cores()] * 2
    assert len(folder.records()[1].curve) == 1
    assert replay(folder, 1, Console(file=io.StringIO()))


def test_a_trial_that_diverges_or_cannot_be_held_is_recorded_and_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    space = SPACE.replace("algorithm: gd", "algorithm: [{kind: gd, step: 1e30}, gd]")
    space = space.replace("[matrix, {kind: mlp, expansion: 1}]", "matrix").replace(", dot", "")
    with begin(tmp_path, "lr=1e-3", space=space) as study:
        local.execute(study, 1, Silent())
    states = {r["variant"]["algorithm"]["step"]: r for r in results(tmp_path / "out")}
    assert states["data"]["state"] == "complete"
    assert states[1e30]["state"] == "diverged"
    assert "loss was" in states[1e30]["reason"]
    assert states[1e30]["score"] is None


def one_trial(folder: Path, *overrides: str) -> TrialRecord:
    """The first trial of a study, in this process."""
    with begin(folder, "trials=1", *overrides) as study:
        spec = study.ask()
        assert spec
        return run_trial(spec)


def test_what_decides_nothing_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that does not fit into memory is left out, and the weights are there."""
    step = MemoryModule.validation_step

    def full(self: MemoryModule, batch: Batch, index: int) -> None:
        if batch[0].shape[1] == 24:
            raise torch.OutOfMemoryError("24 tokens")
        step(self, batch, index)

    monkeypatch.setattr(MemoryModule, "validation_step", full)
    record = one_trial(tmp_path, "task.evaluate_at=[[24, 2], [32, 4]]")
    assert record.state == "complete"
    assert {"test/accuracy", "32x4/accuracy"} <= {*record.metrics}
    assert "24x2/accuracy" not in record.metrics
    assert record.reason == "not judged on 24x2: out of memory (OutOfMemoryError: 24 tokens)"
    assert (tmp_path / "out" / "trials" / "00000" / WEIGHTS).is_file()


def test_a_score_that_leaves_out_what_is_no_number_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One example of which nothing can be said: a mean over the others would flatter."""
    forward = MemoryModule.forward

    def broken(self: MemoryModule, tokens: torch.Tensor) -> torch.Tensor:
        logits = forward(self, tokens)
        if self.training or len(tokens) < 2:
            return logits
        return torch.cat([logits[:1] * math.nan, logits[1:]])

    monkeypatch.setattr(MemoryModule, "forward", broken)
    record = one_trial(tmp_path, "task.eval_examples=1030")  # of 512 a batch, at length 16
    assert record.state == "diverged"
    assert record.reason == "the validation bits_per_token was inf after the last step"


def test_precision_is_that_of_the_recipe(tmp_path: Path) -> None:
    """The same trial, but for rounding to 8 bits: at chance both lose about the same."""
    scores = []
    for how in ("32-true", "bf16-mixed"):
        record = one_trial(tmp_path / how, f"precision={how}")
        assert record.state == "complete", record.reason
        scores.append(record.metrics["validation/bits_per_token"])
    assert 0 < abs(scores[1] - scores[0]) < 0.1 * scores[0]


def test_a_model_larger_than_memory_is_recorded(tmp_path: Path) -> None:
    # 65536 x 3 * 65536 numbers are 51 GB, which malloc refuses where there is less memory.
    record = one_trial(tmp_path, "size.width=65536")
    assert record.state == "out of memory", record.reason

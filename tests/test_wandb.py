"""What reaches wandb: while a study runs, later by `sync`, and as a report."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import study_samples as samples
import wandb_study
from study_files import command, write
from wandb_server import ENTITY, Server, serving

from miras_search import finals, pareto, wandb_log, wandb_report, wandb_sync
from miras_search.errors import UserError
from miras_search.folder import WEIGHTS, StudyFolder
from miras_search.plan import plan
from miras_search.registry import CHOICES
from miras_search.report import sentences
from miras_search.report.leaderboard import rows, variant_of
from miras_search.trial import Pruned

STUDY = Path(wandb_study.__file__)


def process(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a process to its end without the login of whoever runs the tests."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    nobody = {
        "NETRC": os.devnull,
        "WANDB_CONFIG_DIR": environment.pop("home"),
        "PYTHONWARNINGS": "",
    }
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=mine | nobody | environment,
    )


def run_study(folder: Path, mode: str, server: Server, cut: int, *overrides: str) -> None:
    words = [sys.executable, str(STUDY), str(folder), str(cut), *overrides]
    home = {"home": str(folder / "home"), "WANDB_DATA_DIR": str(folder / "data")}
    done = process(words, WANDB_MODE=mode, **home, **server.environment)
    assert done.returncode == 0, done.stderr


def cli(folder: Path, server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    home = {"home": str(folder / "home"), "WANDB_DATA_DIR": str(folder / "data")}
    return process(command(*words), WANDB_MODE="offline", **home, **server.environment)


def written(folder: Path, part: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary of an offline run of the sample study as it ends, and all it has, in order."""
    (file,) = folder.glob(f"wandb/offline-run-*-sample-1-{part}/*.wandb")
    read = process(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)], home=str(folder)
    )
    lines = [json.loads(line) for line in read.stdout.splitlines()]
    summary: dict[str, Any] = {}
    for line in lines:
        summary |= line.get("summary", {}).get("update", {})
    return summary, lines


def check(server: Server, out: Path, summaries: list[int]) -> None:
    """The server has what the records say, each run once and every point of it once."""
    folder = StudyFolder(out)
    study, records = folder.identity["id"], folder.records()
    assert {*server.runs} == {f"{study}-trial-{r.number}" for r in records} | {f"{study}-summary"}
    for record in records:
        run = server.runs[f"{study}-trial-{record.number}"]
        variant = variant_of(record)
        assert run.group == study
        assert run.upserts[0]["jobType"] == "trial"
        assert run.upserts[0]["project"] == "miras-search"
        assert run.exits[-1] == 0
        told = run.config
        assert [told[n] for n in CHOICES] == [str(c) for c in variant.choices().values()]
        assert [told[f"{n}_kind"] for n in CHOICES] == [c.kind for c in variant.choices().values()]
        assert told["lr"] == record.lr
        assert told["versions"] == record.versions
        assert told["memory_expansion" if variant.memory.kind == "mlp" else "chunk"] in (1, 4)
        assert [line["_step"] for line in run.history] == [p.step for p in record.curve]
        assert [line["score"] for line in run.history] == [p.score for p in record.curve]
        assert [line["surprise/layer1/loss"] for line in run.history] == [1.5] * len(record.curve)
        for line in run.history:
            # Four of the five values are finite: two in the middle, one at each end.
            shown = line["norm/layer1/histogram"]
            assert [n for n in shown["values"] if n] == [1, 2, 1]
            assert (shown["bins"][0], shown["bins"][-1]) == (1, 3)
        assert run.summary["score"] == record.score != record.curve[-1].score
        assert run.summary["test/accuracy"] == 0.25
        assert run.summary["variant"]["_type"] == "table-file"
        table = server.versions(f"run-{study}-trial-{record.number}-variant")[-1]
        assert table["files"] == {"variant.table.json"}
    summary = server.runs[f"{study}-summary"]
    assert [line["_step"] for line in summary.history] == summaries
    assert summary.config["space"] == folder.space.to_yaml()
    assert summary.summary["leaderboard"]["nrows"] == len(records)
    assert summary.summary["effects"]["nrows"] == 1
    charts = {name: told for name, told in summary.summary.items() if name.startswith("front/")}
    assert {*charts} == {"front/parameters_table", "front/seconds_table"}  # what the records tell
    assert {told["nrows"] for told in charts.values()} == {len(records)}
    assert summary.summary["verdict"] == sentences.verdict(folder.records(), None, folder.recipe)
    assert {"space.yaml", "recipe.yaml", "best.yaml"} <= summary.uploads
    best = max(records, key=lambda record: record.score or 0)
    assert summary.summary["best/trial"] == best.number
    assert summary.summary["best/score"] == best.score
    model = server.versions(f"{study}-model")[-1]
    assert model["artifactTypeName"] == "model"
    assert model["files"] == {"model.safetensors", "model.yaml", "record.json"}
    named = {alias["alias"] for alias in model["aliases"]}
    assert named == {"latest", "best", f"trial-{best.number}"}
    assert not server.unknown


def test_charts_of_the_front_have_the_trials_of_the_search() -> None:
    how = samples.recipe(finalists=2, seeds=3)
    searched = samples.study(how)
    records = [*searched, *samples.finals(searched, how, (0.1, 0.2) * 3)]
    done = [r for r in searched if r.score is not None]
    charts = wandb_log._fronts(rows(records, how))
    assert {*charts} == {f"front/{cost}" for cost in pareto.COSTS}
    for cost in pareto.COSTS:
        table = charts[f"front/{cost}"].table
        told = {trial: (x, y, on) for x, y, _, trial, on in table.data}
        on_front = pareto.front(pareto.losses(done, how, ["score", cost]))
        assert told == {
            r.number: (getattr(r, cost), r.score, bool(on))
            for r, on in zip(done, on_front, strict=True)
        }


@pytest.mark.slow  # two sweeps, one of them cut
def test_online_runs_are_what_the_records_say_also_after_a_cut(tmp_path: Path) -> None:
    """A trial that is cut off after a point goes on as the run that it was."""
    write(tmp_path)
    with serving() as server:
        run_study(tmp_path, "online", server, -1, "wandb=auto", "trials=1")
        check(server, tmp_path / "out", [1])
        run_study(tmp_path, "online", server, 1, "wandb=auto", "trials=2")
        study = StudyFolder(tmp_path / "out").identity["id"]
        assert [line["_step"] for line in server.runs[f"{study}-trial-1"].history] == [2]
        run_study(tmp_path, "online", server, -1, "wandb=auto", "trials=2")
        check(server, tmp_path / "out", [1, 2])


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials that was run offline."""
    folder = tmp_path_factory.mktemp("offline")
    write(folder)
    with serving() as server:
        run_study(folder, "offline", server, -1, "wandb=offline", "trials=2", "lr=1e-3")
        assert not server.runs
    return folder


def test_sync_and_report(offline: Path) -> None:
    """Twice each: nothing is uploaded again, also if wandb's marks are lost, nor saved anew."""
    out = offline / "out"
    with serving() as server:
        early = cli(offline, server, "wandb-report", str(out))
        assert early.returncode == 2
        assert f"miras-search sync {out}" in early.stderr or "wandb-workspaces" in early.stderr
        done = cli(offline, server, "sync", str(out))
        assert done.returncode == 0, done.stderr
        assert "3 runs uploaded; 0 were there" in done.stdout
        check(server, out, [2])
        before = {name: (len(run.upserts), run.exits[:]) for name, run in server.runs.items()}
        for mark in out.glob("wandb/*/*.synced"):
            mark.unlink()
        again = cli(offline, server, "sync", str(out))
        assert again.returncode == 0, again.stderr
        assert "0 runs uploaded; 3 were there" in again.stdout
        assert before == {n: (len(run.upserts), run.exits) for n, run in server.runs.items()}
        check(server, out, [2])
        third = cli(offline, server, "sync", str(out))
        assert "0 runs uploaded; 3 were there" in third.stdout
        assert "not on this server" not in third.stdout
        pytest.importorskip("wandb_workspaces")
        for _ in range(2):
            saved = cli(offline, server, "wandb-report", str(out))
            assert saved.returncode == 0, saved.stderr
        (report,) = server.reports.values()
        assert saved.stdout.startswith(f"{server.url}/{ENTITY}/miras-search/reports/")
        assert report["displayName"] == StudyFolder(out).identity["id"]
        panels = [
            panel
            for block in json.loads(report["spec"])["blocks"]
            if block["type"] == "panel-grid"
            for panel in block["metadata"]["panelBankSectionConfig"]["panels"]
        ]
        (coordinates,) = [p for p in panels if p["viewType"] == "Parallel Coordinates Plot"]
        columns = [column["accessor"] for column in coordinates["config"]["columns"]]
        varied = {r.variant["memory"]["kind"] for r in StudyFolder(out).records()}
        assert ("config:memory.value" in columns) == (len(varied) > 1)
        assert columns[-2:] == ["config:lr.value", "summary:score"]
        # Two variants tell nothing of what matters.
        assert "Parameter Importance" not in [panel["viewType"] for panel in panels]
        assert "does not show that it is better" in report["description"]
        best = finals.winner(StudyFolder(out).records(), StudyFolder(out).recipe)
        assert best is not None
        assert f" First: {variant_of(best).memory} | " in report["description"]
        assert {"leaderboard", "effects"} <= set(json.dumps(panels).replace('"', " ").split())
        assert not server.unknown


def test_each_run_has_its_checkpoint_where_all_are_kept(tmp_path: Path) -> None:
    write(tmp_path)
    with serving() as server:
        run_study(tmp_path, "online", server, -1, "wandb=auto", "trials=2", "weights=all")
        study = StudyFolder(tmp_path / "out").identity["id"]
        first, second, best = server.versions(f"{study}-model")
    for number, version in enumerate((first, second)):
        assert version["files"] == {"model.safetensors", "model.yaml"}
        assert f"trial-{number}" in {alias["alias"] for alias in version["aliases"]}
    assert {"best", "trial-1"} <= {alias["alias"] for alias in best["aliases"]}


def test_a_run_of_a_trial_that_failed_is_whole(offline: Path) -> None:
    """wandb calls it failed; what it calls running was cut off on its way."""
    out = offline / "out"
    for mark in out.glob("wandb/*/*.synced"):
        mark.unlink()
    with serving() as server:
        assert cli(offline, server, "sync", str(out)).returncode == 0
        study = StudyFolder(out).identity["id"]
        server.runs[f"{study}-trial-0"].exits[:] = [1]
        server.runs[f"{study}-trial-1"].exits.clear()
        again = cli(offline, server, "sync", str(out))
    assert f"{study}-trial-0: " not in again.stdout
    assert f"{study}-trial-1: wandb does not have it to its end" in again.stdout


def test_runs_that_another_server_has_are_told(offline: Path) -> None:
    marks = []
    for run in offline.glob("out/wandb/offline-run-*/*.wandb"):
        marks.append(run.with_name(f"{run.name}.synced"))
        marks[-1].touch()
    try:
        with serving() as server:
            done = cli(offline, server, "sync", str(offline / "out"))
            assert not server.runs
    finally:
        for mark in marks:
            mark.unlink()
    assert "0 runs uploaded; 0 were there" in done.stdout
    assert "not on this server: 3 runs uploaded once" in done.stdout


def test_tables_are_written_where_they_are_missing_or_behind(tmp_path: Path) -> None:
    """A sweep may be killed after its last trial and before they are."""
    how = samples.recipe(wandb="offline")
    folder = samples.folder(tmp_path / "study", how, samples.study(how))
    (record, *_) = folder.path.glob("trials/*/record.json")

    def made() -> bool:
        """Whether they were written when they were asked for."""
        wandb_log.summary_run(folder, how, folder.records())
        (run,) = wandb_log.offline_runs(folder.path, folder.identity["id"], wandb_log.SUMMARY)
        known = (run / "known").exists()
        (run / "known").touch()
        return not known

    assert made()
    assert not made()
    os.utime(record, (2e9, 2e9))
    assert made()
    os.utime(record, (1e9, 1e9))
    assert not made()
    (run,) = wandb_log.offline_runs(folder.path, folder.identity["id"], wandb_log.SUMMARY)
    (run / wandb_log.TOLD).unlink()  # as if it had been cut off
    assert made()
    assert not made()
    shutil.rmtree(folder.path / "wandb")
    assert made()


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Pruned("at step 4"), "pruned", 0),
        (SystemExit(0), "pruned", 0),  # as Ray stops it
        (ValueError("why"), "failed", 1),
        (KeyboardInterrupt(), None, 1),
    ],
)
def test_a_trial_without_a_score_has_none_on_wandb(
    error: BaseException, state: str | None, code: int, tmp_path: Path
) -> None:
    """The last score on the way would stand beside those of trials that came to their end."""
    how, variant = samples.recipe(), samples.variants()[0]
    spec = samples.spec(0, variant, how, str(tmp_path / "trials" / "00000"))
    spec = spec.model_copy(update={"study": "sample-1", "wandb": "offline"})
    cost = plan(variant, how.size, 64, 64, how.task.readout)
    with (
        contextlib.suppress(type(error)),
        wandb_log.trial_run(spec, variant, how, cost) as log,
    ):
        for point in wandb_study.points(0):
            log.point(point, {})
        raise error
    summary, lines = written(tmp_path, "trial-0")
    scores = [line["history"]["item"]["score"] for line in lines if line["type"] == "history"]
    assert scores == [point.score for point in wandb_study.points(0)]
    assert summary.get("score") is None
    assert summary.get("state") == state
    assert lines[-1]["exit"]["exit_code"] == code


def test_each_choice_stands_beside_its_own_equation() -> None:
    how, variants = samples.recipe(), samples.variants()
    cost = plan(variants[0], how.size, 64, 64, how.task.readout)
    for variant in variants:
        means = {row["what"]: row["means"] for row in wandb_log.described(variant, cost)}
        chosen = {name for name in variant.shown_choices() if name not in variant.idle}
        assert {"memory"} <= chosen <= {*means}
        for name in chosen:
            assert means[name] == variant.equations().get(name, "")


def test_what_means_nothing_to_a_variant_is_a_dash() -> None:
    how, attention = samples.recipe(), samples.variants()[-1]
    (row,) = rows([samples.record(0, attention, 0.5, how=how)], how)
    assert [row[name] for name in ("memory", "bias", "algorithm")] == ["attention", "-", "-"]
    told = wandb_log.columns(attention)
    assert told["memory"] == "attention"
    assert {told[name] for name in ("bias", "retention", "algorithm_kind")} == {"-"}
    assert not any(name.startswith("algorithm_") for name in told if name != "algorithm_kind")


def test_a_mode_that_wandb_does_not_know_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "foo")
    with pytest.raises(UserError, match="WANDB_MODE: expected online, offline or disabled, got 'f"):
        wandb_log.mode("auto")
    assert wandb_log.mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert wandb_log.mode("auto") == "dryrun"


def test_finals_reach_the_summary(tmp_path: Path) -> None:
    how = samples.recipe(finalists=2, seeds=3, wandb="offline")
    searched = [
        samples.record(i, v, 0.9 - i / 10, how=how) for i, v in enumerate(samples.variants()[:2])
    ]
    records = [*searched, *samples.finals(searched, how, (0.8, 0.4, 0.9, 0.5, 1.0, 0.6))]
    folder = samples.folder(tmp_path / "study", how, records)
    for record in records:
        (folder.trial(record.number) / WEIGHTS).write_text(f"of {record.number}")
    wandb_log.summary_run(folder, how, records)
    told, lines = written(folder.path, wandb_log.SUMMARY)
    outcome = finals.standing(records, how)
    assert outcome is not None
    assert told["first/mean"] == pytest.approx(outcome.first.mean)
    assert told["first/mean"] == pytest.approx(0.9)
    assert told["first/margin"] == pytest.approx(outcome.first.margin)
    assert told["first/margin"] > 0
    assert told["first/variant"] == str(outcome.first.variant)
    assert told["first/tied"] == outcome.tied
    # Online the run goes on, and would keep what finals that no longer stand had told.
    standing = wandb_log._standing(searched, how)
    assert {n: standing[n] for n in standing if n != "verdict"} == dict.fromkeys(
        ("first/variant", "first/mean", "first/margin", "first/tied")
    )
    assert told["verdict"] == sentences.finals(outcome)[0]
    assert (told["best/trial"], told["best/score"]) == (0, 0.9)
    models = [line["artifact"] for line in lines if line["type"] == "artifact"]
    aliases = [model["aliases"] for model in models if model["name"] == "sample-1-model"]
    # What is uploaded last is the latest; what is best is neither first nor last of the records.
    assert ["best" in names for names in aliases] == [False, False, True]
    assert {"latest", "best", "trial-6"} == {*aliases[-1]}


def test_what_sync_cannot_do_is_one_message(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a login; from a server that refuses runs; of a study that is running; of a copy."""
    out = offline / "out"
    for mark in out.glob("wandb/*/*.synced"):
        mark.unlink()
    with serving() as server:
        server.refuses = "UpsertBucket"
        refused = cli(offline, server, "sync", str(out))
        running = StudyFolder(out).lock()
        busy = cli(offline, server, "sync", str(out))
        running.close()
    assert not server.runs
    known = wandb_log.run_id(StudyFolder(out).identity["id"], wandb_log.trial_part(0))
    found = {known: {"digest": "of a copy"}}
    monkeypatch.setattr(
        wandb_sync,
        "known",
        lambda api, study: {n: SimpleNamespace(id=n, config=c) for n, c in found.items()},
    )
    monkeypatch.setattr(wandb_sync, "connect", lambda: None)
    with pytest.raises(UserError, match=r"another trial as .*: a copy of this study went on"):
        wandb_sync.sync(StudyFolder(out))
    monkeypatch.setattr(wandb_sync, "known", lambda api, study: {})
    bare = samples.folder(tmp_path / "bare", samples.recipe(), [])
    with pytest.raises(UserError, match="no run to upload: expected trials that were logged"):
        wandb_sync.sync(bare)
    nobody = process(command("sync", str(out)), home=str(tmp_path / "home"))
    for done, told in (
        (refused, f"error: {out}: wandb did not upload 3 of 3 runs: "),
        (busy, f"error: {out}: another sweep is running in it"),
        (nobody, "error: wandb: not logged in: expected a key from `wandb login`"),
    ):
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(told)
        assert "Traceback" not in done.stderr


def test_the_saved_report_is_of_the_search_and_of_what_differs_there(tmp_path: Path) -> None:
    how = samples.recipe(finalists=1, seeds=3)
    one, attention = samples.variants()[0], samples.variants()[-1]
    records = [samples.record(0, one, 0.9, how=how), samples.record(1, attention, 0.8, how=how)]
    folder = samples.folder(tmp_path / "study", how, records)
    # Attention has no bias that could differ from that of the other.
    assert wandb_report._varied(folder) == ["memory"]
    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    grids = [b for b in wandb_report._blocks(wr, folder, "me", []) if isinstance(b, wr.PanelGrid)]
    (trials,) = [runs for grid in grids for runs in grid.runsets if runs.name == "trial"]
    assert "Config('phase') = 'search'" in trials.filters

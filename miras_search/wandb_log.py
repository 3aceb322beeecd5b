"""Weights & Biases: one run for each trial, grouped by study, and one with the study's table."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search import finals, pareto
from miras_search.errors import UserError
from miras_search.folder import CONFIG, RECORD, WEIGHTS
from miras_search.report import sentences, text
from miras_search.report.leaderboard import rows
from miras_search.trial import ended, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from miras_search.folder import StudyFolder
    from miras_search.plan import Plan
    from miras_search.recipe import Recipe
    from miras_search.record import Point, TrialRecord
    from miras_search.trial import TrialSpec
    from miras_search.variant import Variant

PROJECT = "miras-search"
MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")
"""What wandb takes in WANDB_MODE; the last two are older names of the first two."""

Rows = list[dict[str, Any]]
"""A table: the same keys in each row."""


def mode(wanted: str) -> str:
    """online, offline or disabled, for what a recipe says.

    `auto` is what WANDB_MODE says, else online for a user who is logged in, else offline.

    Raises:
        UserError: WANDB_MODE says what wandb does not know.
    """
    if wanted != "auto":
        return wanted
    if chosen := os.environ.get("WANDB_MODE"):
        if chosen not in MODES:
            told = f"WANDB_MODE: expected online, offline or disabled, got '{chosen}'"
            raise UserError(told)
        return chosen
    return "online" if logged_in() else "offline"


@cache
def logged_in() -> bool:
    """Whether wandb has a key that its server takes; what stands against it is told once."""
    import wandb

    try:
        return wandb.login(prompt=False)
    except Exception as error:
        logging.getLogger(__name__).warning("wandb: %s", error)
        return False


def trial_part(number: int) -> str:
    """What the run of a trial is called within its study."""
    return f"trial-{number}"


SUMMARY = "summary"
"""What the run with the study's tables is called within its study."""
TOLD = "told"
"""File in the folder of the offline run with the tables, once it holds them all."""


def run_id(study: str, part: str) -> str:
    """The same for the same part of a study, whenever and from wherever it is uploaded."""
    return f"{study}-{part}"


def offline_runs(folder: Path, study: str, part: str) -> list[Path]:
    """The folders of the offline runs of a part of a study."""
    return sorted((folder / "wandb").glob(f"offline-run-*-{run_id(study, part)}"))


def forget(folder: Path, study: str, part: str) -> None:
    """Remove the offline run of a trial that was cut off, or tables that have newer ones: the part
    is written again under the same id."""
    for run in offline_runs(folder, study, part):
        shutil.rmtree(run, ignore_errors=True)


class TrialLog:
    """What a trial tells wandb; without a run, or once wandb has failed, it tells nothing."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.run: Any = None
        self.run = self._attempt(start)

    def point(self, point: Point, spreads: Mapping[str, Tensor]) -> None:
        """One point of the curves, and histograms of all values of each spread."""
        if self.run is not None:
            self._attempt(lambda: self.run.log(_values(point, spreads), step=point.step))

    def result(self, score: float, metrics: dict[str, float]) -> None:
        """What came out."""
        if self.run is not None:
            told = metrics | {"score": score, "state": "complete", "reason": None}
            self._attempt(lambda: self.run.summary.update(told))

    def ended(self, state: str, reason: str) -> None:
        """How a trial ended that has no score: the last one on the way is none."""
        if self.run is not None:
            told = {"score": None, "state": state, "reason": reason}
            self._attempt(lambda: self.run.summary.update(told))

    def model(self, spec: TrialSpec, told: Mapping[str, Any]) -> None:
        """The checkpoint in the folder of the trial, and what is to be known of it."""
        if self.run is not None:
            trial = (Path(spec.folder), spec.study, spec.number)
            self._attempt(lambda: _log_model(self.run, *trial, told))

    def close(self, exit_code: int) -> None:
        """End the run: 0 is a trial that completed, or was stopped early."""
        if self.run is not None:
            self._attempt(lambda: self.run.finish(exit_code=exit_code))

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """A trial is worth more than its log: what fails here is told and given up."""
        try:
            return call()
        except Exception as error:
            logging.getLogger(__name__).warning("wandb: %s", error)
            self.run = None
            return None


@contextmanager
def trial_run(spec: TrialSpec, variant: Variant, recipe: Recipe, plan: Plan) -> Iterator[TrialLog]:
    """The run of one trial."""
    config = {
        "study": spec.study,
        "number": spec.number,
        "digest": variant.digest,
        "variant": str(variant),
        "lr": spec.lr,
        "seed": spec.seed,
        "phase": spec.phase,
        **columns(variant),
        **variant.side_choices(),
        "parameters": plan.parameters,
        "state_bytes": plan.state_bytes,
        "flops_per_token": plan.flops_per_token,
        "lowering": plan.lowering,
        "versions": versions(),
        "recipe": recipe.to_dict(),
        "space": spec.space,
    }
    root = Path(spec.folder).parent.parent
    name = f"{spec.number} {variant.slug}"

    def start() -> Any:
        part = trial_part(spec.number)
        run = _start(spec.wandb, root, spec.study, part, name, config, "trial")
        if run is not None:
            # Only `result` tells it: wandb would put the last point, held back to the end, over it.
            run.define_metric("score", summary="none")
            run.summary["variant"] = _table(described(variant, plan))
        return run

    log = TrialLog(start)
    try:
        yield log
    except Exception as error:
        state, reason = ended(error)
        log.ended(state, reason)
        log.close(exit_code=0 if state == "pruned" else 1)
        raise
    except SystemExit:  # as Ray ends a trial that it was told to stop
        log.ended("pruned", "it was stopped before its end")
        log.close(exit_code=0)
        raise
    except BaseException:
        log.close(exit_code=1)
        raise
    log.close(exit_code=0)


def columns(variant: Variant) -> dict[str, Any]:
    """The choices as flat columns to sort, group and draw by: each in words under its name
    ("memory"), its kind ("memory_kind") and its settings ("memory_depth"). Of an axis that means
    nothing to the variant the first two are a dash."""
    found: dict[str, Any] = {}
    for name, choice in variant.choices().items():
        if name in variant.idle:
            found |= {name: text.NONE, f"{name}_kind": text.NONE}
            continue
        settings = {f"{name}_{key}": value for key, value in choice.to_dict().items()}
        found |= {name: str(choice)} | settings
    return found


def described(variant: Variant, plan: Plan) -> Rows:
    """What a variant computes, choice by choice, and how and at what cost."""
    equations = variant.equations()
    chosen = [
        {"what": name, "is": str(choice), "means": equations.get(name, "")}
        for name, choice in variant.shown_choices().items()
        if name not in variant.idle
    ]
    costs = {"parameters": "trainable", "state_bytes": "of one sequence, as float32"}
    costs |= {"flops_per_token": "of the forward pass, matrix products only"}
    return [
        *chosen,
        {"what": "lowering", "is": plan.lowering, "means": plan.why},
        *({"what": n, "is": str(getattr(plan, n)), "means": told} for n, told in costs.items()),
    ]


def summary_run(
    folder: StudyFolder,
    recipe: Recipe,
    records: Sequence[TrialRecord],
    further: Mapping[str, Rows] | None = None,
) -> None:
    """A run that holds the leaderboard of a study, further tables by name, what was asked, and
    the weights that were kept; what fails here is told and given up.

    Of a study that is resumed the tables are logged again, at the number of trials as the step; but
    not offline, where they are there and no older than the last trial.
    """
    try:
        _summarize(folder, recipe, records, further or {})
    except Exception as error:
        logging.getLogger(__name__).warning("wandb: %s", error)


def _summarize(
    folder: StudyFolder,
    recipe: Recipe,
    records: Sequence[TrialRecord],
    further: Mapping[str, Rows],
) -> None:
    chosen = mode(recipe.wandb)
    if chosen == "disabled" or not records or (chosen == "offline" and not _behind(folder)):
        return
    study, ranking = folder.identity["id"], rows(records, recipe)
    config = folder.identity | {"recipe": recipe.to_dict(), "space": folder.space.to_yaml()}
    name = f"{study} leaderboard"
    forget(folder.path, study, SUMMARY)
    run = _start(chosen, folder.path, study, SUMMARY, name, config, "summary")
    try:
        tables = {"leaderboard": ranking, **further}
        shown = {name: _table(table) for name, table in tables.items()}
        run.log(shown | _fronts(ranking), step=len(records))
        if ranking:
            run.summary.update({f"best/{name}": value for name, value in ranking[0].items()})
            run.summary.update(_standing(records, recipe))
        for file in (folder.space_file, folder.recipe_file, folder.best_file):
            if file.is_file():
                run.save(shutil.copy(file, run.dir), base_path=run.dir, policy="now")
        winner = finals.winner(records, recipe)
        # Runs of trials have their own where all are kept. The best last, so that it is the latest.
        able = [winner] if recipe.weights == "all" else finals.candidates(records, recipe)
        for record in sorted(filter(None, able), key=lambda record: record == winner):
            told = {"score": record.score, "metric": record.metric, "digest": record.digest}
            trial = (folder.trial(record.number), study, record.number)
            _log_model(run, *trial, told, *(["best"] if record == winner else []))
    finally:
        run.finish()
    for written in offline_runs(folder.path, study, SUMMARY):
        (written / TOLD).touch()


def _behind(folder: StudyFolder) -> bool:
    """Whether the offline run with the tables is missing, not whole, or older than a trial."""
    runs = offline_runs(folder.path, folder.identity["id"], SUMMARY)
    written = [(run / TOLD).stat().st_mtime for run in runs if (run / TOLD).is_file()]
    trials = [file.stat().st_mtime for file in folder.path.glob(f"trials/*/{RECORD}")]
    return not written or max(written) < max(trials, default=0)


def _fronts(ranking: Rows) -> dict[str, Any]:
    """A chart of score against each cost that is known, a point for each trial of the search, with
    a column that says which are on the front of both."""
    import wandb

    charts = {}
    for cost in pareto.COSTS:
        told = [
            {name: row[name] for name in (cost, "score", "variant", "trial")}
            | {"front": cost in row["fronts"].split()}
            for row in ranking
            if row["rank"] is not None and row[cost] is not None
        ]
        if told:
            title = f"score against {cost.replace('_', ' ')}, one run each"
            chart = wandb.plot.scatter(_table(told), cost, "score", title=title)
            charts[f"front/{cost}"] = chart
    return charts


def _standing(records: Sequence[TrialRecord], recipe: Recipe) -> dict[str, Any]:
    """How sure it is who is first."""
    outcome = finals.standing(records, recipe)
    first = outcome.first if outcome else None
    # A run that goes on keeps what it is not told: finals that no longer stand would stay.
    return {
        "verdict": sentences.verdict(records, outcome, recipe),
        "first/variant": str(first.variant) if first else None,
        "first/mean": first.mean if first else None,
        "first/margin": first.margin if first else None,
        "first/tied": outcome.tied if outcome else None,
    }


def _log_model(
    run: Any, folder: Path, study: str, number: int, told: Mapping[str, Any], *also: str
) -> None:
    """The checkpoint in the folder of a trial, if it is there, as a version of the study's model;
    aliases are the trial and `also`."""
    import wandb

    files = [file for name in (WEIGHTS, CONFIG, RECORD) if (file := folder / name).is_file()]
    if folder / WEIGHTS not in files:
        return
    model = wandb.Artifact(f"{study}-model", "model", metadata={"trial": number} | dict(told))
    for file in files:
        model.add_file(str(file))
    run.log_artifact(model, aliases=[trial_part(number), *also])


def _values(point: Point, spreads: Mapping[str, Tensor]) -> dict[str, Any]:
    import wandb

    values: dict[str, Any] = {
        "train_loss": point.train_loss,
        "score": point.score,
        "seconds": point.seconds,
    }
    values |= {f"surprise/{name}": value for name, value in point.surprise.items()}
    for name, spread in spreads.items():
        finite = spread[spread.isfinite()]
        if len(finite):
            values[f"{name}/histogram"] = wandb.Histogram(finite.tolist())
    return values


def _table(shown: Rows) -> Any:
    import wandb

    names: list[Any] = list(shown[0]) if shown else []
    return wandb.Table(columns=names, data=[[*row.values()] for row in shown])


def _start(
    wandb_mode: str,
    folder: Path,
    study: str,
    part: str,
    name: str,
    config: dict[str, Any],
    job: str,
) -> Any:
    """A quiet run with an id of its own in the study, or None where there shall be none."""
    if wandb_mode == "disabled":
        return None
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,  # reading what is installed takes a quarter of a second a run
    )
    return wandb.init(
        mode=wandb_mode,  # pyright: ignore[reportArgumentType]
        dir=folder,
        project=PROJECT,
        group=study,
        id=run_id(study, part),
        name=name,
        config=config,
        job_type=job,
        reinit="finish_previous",
        resume="allow" if wandb_mode == "online" else None,
        settings=settings,
    )

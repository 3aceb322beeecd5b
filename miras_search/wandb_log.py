"""Weights & Biases: one run for each trial, grouped by study, and one with the study's table."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miras_search.plan import Plan
    from miras_search.recipe import Recipe
    from miras_search.record import Point
    from miras_search.trial import TrialSpec
    from miras_search.variant import Variant

PROJECT = "miras-search"


def mode(wanted: str) -> str:
    """online, offline or disabled, for what a recipe says.

    `auto` is what WANDB_MODE says, else online for a user who is logged in, else offline.
    """
    if wanted != "auto":
        return wanted
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"


def forget(folder: Path, spec: TrialSpec) -> None:
    """Remove the offline run of a trial that was cut off: it runs again under the same id."""
    for run in (folder / "wandb").glob(f"offline-run-*-{spec.study}-trial-{spec.number}"):
        shutil.rmtree(run, ignore_errors=True)


class TrialLog:
    """What a trial tells wandb; without a run, or once wandb has failed, it tells nothing."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.run: Any = None
        self.run = self._attempt(start)

    def point(self, point: Point) -> None:
        """One point of the curves."""
        values = {"train_loss": point.train_loss, "score": point.score, "seconds": point.seconds}
        values |= {f"surprise/{name}": value for name, value in point.surprise.items()}
        if self.run is not None:
            self._attempt(lambda: self.run.log(values, step=point.step))

    def result(self, score: float, metrics: dict[str, float]) -> None:
        """What came out."""
        if self.run is not None:
            self._attempt(lambda: self.run.summary.update(metrics | {"score": score}))

    def close(self, exit_code: int) -> None:
        """End the run: 0 is a complete trial."""
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
        "lr": spec.lr,
        "seed": spec.seed,
        "phase": spec.phase,
        **{axis: str(choice) for axis, choice in variant.choices().items()},
        **variant.side_choices(),
        "parameters": plan.parameters,
        "state_bytes": plan.state_bytes,
        "flops_per_token": plan.flops_per_token,
        "lowering": plan.lowering,
        "recipe": recipe.to_dict(),
        "space": spec.space,
    }
    root = Path(spec.folder).parent.parent
    name = f"{spec.number} {variant.slug}"
    log = TrialLog(
        lambda: _start(spec.wandb, root, spec.study, f"trial-{spec.number}", name, config, "trial")
    )
    try:
        yield log
    except BaseException:
        log.close(exit_code=1)
        raise
    log.close(exit_code=0)


def summary_run(
    wandb_mode: str, folder: Path, study: str, config: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """A run that holds the study's leaderboard as a table; what fails here is told and given up."""
    try:
        _summarize(wandb_mode, folder, study, config, rows)
    except Exception as error:
        logging.getLogger(__name__).warning("wandb: %s", error)


def _summarize(
    wandb_mode: str, folder: Path, study: str, config: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    run = _start(wandb_mode, folder, study, "summary", f"{study} leaderboard", config, "summary")
    if run is None:
        return
    import wandb

    columns: list[Any] = list(rows[0]) if rows else []
    table = wandb.Table(columns=columns)
    for row in rows:
        table.add_data(*row.values())
    run.log({"leaderboard": table})
    if rows:
        run.summary.update({f"best/{name}": value for name, value in rows[0].items()})
    run.finish()


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
    )
    return wandb.init(
        mode=wandb_mode,  # pyright: ignore[reportArgumentType]
        dir=folder,
        project=PROJECT,
        group=study,
        id=f"{study}-{part}",
        name=name,
        config=config,
        job_type=job,
        reinit="finish_previous",
        resume="allow" if wandb_mode == "online" else None,
        settings=settings,
    )

"""Weights & Biases: one run for each trial, grouped by study, and one with the study's table."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class TrialLog:
    """What a trial tells wandb; every method does nothing without a run."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def point(self, point: Point) -> None:
        """One point of the curves."""
        if self.run is not None:
            values = {"train_loss": point.train_loss, "score": point.score}
            self.run.log(values | {"seconds": point.seconds}, step=point.step)

    def finish(self, score: float, metrics: dict[str, float]) -> None:
        """The result."""
        if self.run is not None:
            self.run.summary.update(metrics | {"score": score})


@contextmanager
def trial_run(spec: TrialSpec, variant: Variant, recipe: Recipe, plan: Plan) -> Iterator[TrialLog]:
    """The run of one trial; a wandb that cannot start is not a reason to lose the trial."""
    config = {
        "study": spec.study,
        "number": spec.number,
        "digest": variant.digest,
        "lr": spec.lr,
        "seed": spec.seed,
        **{axis: str(choice) for axis, choice in variant.axes().items()},
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
    run = _start(spec.wandb, root, spec.study, f"trial-{spec.number}", name, config, "trial")
    try:
        yield TrialLog(run)
    except BaseException:
        if run is not None:
            run.finish(exit_code=1, quiet=True)
        raise
    if run is not None:
        run.finish(quiet=True)


def summary_run(
    wandb_mode: str, folder: Path, study: str, config: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """A run that holds the study's leaderboard as a table."""
    import wandb

    run = _start(wandb_mode, folder, study, "summary", f"{study} leaderboard", config, "summary")
    if run is None:
        return
    columns: list[Any] = list(rows[0]) if rows else []
    table = wandb.Table(columns=columns)
    for row in rows:
        table.add_data(*row.values())
    run.log({"leaderboard": table})
    if rows:
        run.summary.update({f"best/{name}": value for name, value in rows[0].items()})
    run.finish(quiet=True)


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
        resume="allow" if wandb_mode == "online" else None,
        settings=settings,
    )

"""One trial: plain data in, a record out. It knows of no search and of no cluster."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
import warnings
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from miras_search.errors import printable
from miras_search.folder import RECORD
from miras_search.record import Ending, Phase, Point, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("miras-search", "torch", "lightning", "numpy")
"""What may change a trial's numbers."""


class Pruned(Exception):
    """Raised in a trial by who listens to its points: why it shall stop."""


class TrialSpec(BaseModel, frozen=True):
    """All that decides a trial, as plain values that travel to any process."""

    model_config = ConfigDict(extra="forbid")

    number: int
    variant: dict[str, Any]
    """As `Variant.from_dict` reads it."""
    lr: float
    seed: int
    phase: Phase = "search"
    recipe: dict[str, Any]
    """As `Recipe.from_dict` reads it, at the size of this trial."""
    folder: str
    """Where record.json and the checkpoint are written."""
    study: str
    """Name of the study, which groups its runs on wandb."""
    space: str = ""
    """The space as YAML, for the log of the run."""
    cwd: str = "."
    """Where relative paths of the recipe begin."""
    wandb: str = "disabled"
    """online, offline or disabled."""


def run(spec: TrialSpec, on_point: Callable[[Point], None] = lambda point: None) -> TrialRecord:
    """Train and judge one variant, and write its record; whatever happens, a record returns.

    Whoever is told a point may raise `Pruned`: the training ends there. A trial that diverges, runs
    out of memory or raises is recorded with its reason. KeyboardInterrupt is passed on: an
    interrupted trial has no record.
    """
    import torch

    from miras_search.lit import Diverged

    began, found = time.monotonic(), {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    curve: list[Point] = []

    def keep(point: Point) -> None:
        curve.append(point)
        on_point(point)

    state: Ending = "complete"
    reason = None
    try:
        found |= _train(spec, keep)
    except Pruned as error:
        state, reason = "pruned", str(error)
    except Diverged as error:
        state, reason = "diverged", str(error)
    except Exception as error:
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        exhausted = exhausted or "can't allocate memory" in str(error)
        state = "out of memory" if exhausted else "failed"
        reason = printable(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    seconds = time.monotonic() - began
    record = outcome(spec, state, reason, curve=tuple(curve), seconds=seconds, **found)
    record.write(Path(spec.folder) / RECORD)
    return record


def outcome(spec: TrialSpec, state: Ending, reason: str | None, **found: Any) -> TrialRecord:
    """The record of a trial that ended in `state`, with whatever is known of it."""
    from miras_search.recipe import Recipe
    from miras_search.variant import Variant

    return TrialRecord(
        number=spec.number,
        digest=Variant.from_dict(spec.variant).digest,
        variant=spec.variant,
        lr=spec.lr,
        seed=spec.seed,
        phase=spec.phase,
        recipe=spec.recipe,
        state=state,
        reason=reason,
        metric=Recipe.from_dict(spec.recipe).task.metric,
        versions=versions(),
        **found,
    )


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that may change a trial's numbers."""
    return {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}


def _train(spec: TrialSpec, on_point: Callable[[Point], None]) -> dict[str, Any]:
    """Fit, evaluate on every held-out set, save; what the record says of a complete trial."""
    import lightning.pytorch as pl
    import torch

    from miras_search import checkpoint, wandb_log
    from miras_search.lit import Diverged, MemoryModule, TaskData
    from miras_search.lower import compiled
    from miras_search.plan import plan
    from miras_search.recipe import Recipe
    from miras_search.variant import Variant

    os.chdir(spec.cwd)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    variant, recipe = Variant.from_dict(spec.variant), Recipe.from_dict(spec.recipe)
    task = recipe.task
    compiling = compiled.seconds()
    cost = plan(variant, recipe.size, task.vocabulary, task.length, task.readout)
    with (
        warnings.catch_warnings(),
        wandb_log.trial_run(spec, variant, recipe, cost) as log,
    ):
        warnings.filterwarnings("ignore", module="lightning|torchmetrics")

        def point(reached: Point) -> None:
            log.point(reached, module.spreads)
            on_point(reached)

        pl.seed_everything(spec.seed, workers=True, verbose=False)
        data = TaskData(task, recipe.batch, spec.seed)
        module = MemoryModule(variant, recipe, spec.lr, point)
        trainer = pl.Trainer(
            max_steps=recipe.steps,
            val_check_interval=math.ceil(recipe.steps / recipe.evaluate),
            check_val_every_n_epoch=None,
            gradient_clip_val=recipe.clip,
            accelerator=recipe.accelerator,
            precision=recipe.precision,
            devices=1,
            deterministic="warn",
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
        metrics = {}
        # Where `evaluate` divides the steps, the last of them has been evaluated.
        judged = module.curve and module.curve[-1].step == recipe.steps
        for split in ("validation", "test", *task.evaluations):
            if split != "validation" or not judged:
                trainer.validate(module, data.loader(split), verbose=False)
            metrics |= {f"{split}/{name}": value for name, value in module.metrics().items()}
        score = metrics[f"validation/{task.metric}"]
        if not math.isfinite(score):
            raise Diverged(f"the validation {task.metric} was {score} after the last step")
        log.result(score, metrics)
    checkpoint.save(
        Path(spec.folder),
        module.model,
        variant,
        recipe.size,
        task.vocabulary,
        task.readout,
        task=task.to_dict(),
        score=score,
        metric=task.metric,
        lr=spec.lr,
        seed=spec.seed,
    )
    return {
        "score": score,
        "metrics": metrics,
        "parameters": cost.parameters,
        "state_bytes": cost.state_bytes,
        "flops_per_token": cost.flops_per_token,
        "lowering": cost.lowering,
        "tokens": module.tokens,
        "compile_seconds": compiled.seconds() - compiling,
        "device": str(module.device),
        "threads": torch.get_num_threads(),
    }

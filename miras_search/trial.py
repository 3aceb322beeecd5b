"""One trial: plain data in, a record out. It knows of no search and of no cluster."""

from __future__ import annotations

import errno
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

from miras_search import ranks
from miras_search.errors import printable
from miras_search.folder import RECORD
from miras_search.record import Ending, Phase, Point, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, of a quota and of a limit on files."""
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

    Raises:
        OSError: what was found cannot be written, and so there is no record: it can run again.
    """
    import torch

    began = time.monotonic()
    found: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    curve: list[Point] = []

    def keep(point: Point) -> None:
        curve.append(point)
        on_point(point)

    def close(state: Ending, reason: str | None) -> TrialRecord:
        seconds = time.monotonic() - began
        told = found | {"reason": reason or found.get("reason")}
        record = outcome(spec, state, curve=tuple(curve), seconds=seconds, **told)
        record.write(Path(spec.folder) / RECORD)
        return record

    state, reason = "complete", None
    try:
        with ranks.crew(spec, spec.recipe.get("devices", 1), close) as rank:
            found["threads"] = torch.get_num_threads()
            found |= _train(spec, keep, rank)
    except Exception as error:
        if full := no_room(error, spec.folder):
            raise full from error
        state, reason = ended(error)
    return close(state, reason)


def no_room(error: Exception, where: str) -> OSError | None:
    """That a disk or a quota is full or a file grew larger than files may be, if that is what an
    error says; `where` is told if it does not say that."""
    for code in FULL:
        if isinstance(error, OSError) and error.errno == code:
            return OSError(code, os.strerror(code), error.filename or where)
        if f"(os error {code})" in str(error):  # as safetensors tells it
            return OSError(code, os.strerror(code), where)
    return None


def follow(spec: TrialSpec, rank: ranks.Rank) -> tuple[Ending, str] | None:
    """Train along with the first process of a trial; what it must be told if that goes wrong."""
    try:
        _train(spec.model_copy(update={"wandb": "disabled"}), lambda point: None, rank)
    except Exception as error:
        state, reason = ended(error)
        return None if state in ("pruned", "diverged") else (state, reason)


def ended(error: Exception) -> tuple[Ending, str]:
    """The state of a trial that an error ended, and the reason."""
    import torch

    from miras_search.lit import Diverged

    match error:
        case Pruned():
            return "pruned", str(error)
        case Diverged():
            return "diverged", str(error)
        case ranks.Failed():
            return error.args
    exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
    exhausted = exhausted or "can't allocate memory" in str(error)
    reason = printable(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    return "out of memory" if exhausted else "failed", reason


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


def _train(spec: TrialSpec, on_point: Callable[[Point], None], rank: ranks.Rank) -> dict[str, Any]:
    """Fit, evaluate on every held-out set, save; what the record says of a complete trial."""
    import lightning.pytorch as pl

    from miras_search import checkpoint, wandb_log
    from miras_search.lit import Diverged, MemoryModule, TaskData
    from miras_search.lower import compiled
    from miras_search.plan import plan
    from miras_search.recipe import Recipe
    from miras_search.variant import Variant

    os.chdir(spec.cwd)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    variant, recipe = Variant.from_dict(spec.variant), Recipe.from_dict(spec.recipe)
    task = recipe.task
    compiling = compiled.seconds()
    cost = plan(variant, recipe.size, task.vocabulary, task.length, task.readout, recipe.lowering)
    if cost.lowering == "compiled":
        compiled.begin(variant.digest)
    with (
        warnings.catch_warnings(),
        wandb_log.trial_run(spec, variant, recipe, cost) as log,
    ):
        warnings.filterwarnings("ignore", module="lightning|torchmetrics")

        def point(reached: Point) -> None:
            stop = None
            if rank.leads:
                log.point(reached, module.spreads)
                try:
                    on_point(reached)
                except Pruned as error:
                    stop = str(error)
            if (stop := rank.told(stop)) is not None:
                raise Pruned(stop)

        pl.seed_everything(spec.seed, workers=True, verbose=False)
        data = TaskData(task, recipe.batch, spec.seed, rank)
        module = MemoryModule(variant, recipe, spec.lr, point)
        trainer = pl.Trainer(
            max_steps=recipe.steps,
            val_check_interval=math.ceil(recipe.steps / recipe.evaluate),
            check_val_every_n_epoch=None,
            gradient_clip_val=recipe.clip,
            accelerator=recipe.accelerator,
            precision=recipe.precision,
            devices=rank.count,
            strategy=rank.strategy,
            use_distributed_sampler=False,
            deterministic="warn",
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
        metrics: dict[str, float] = {}
        # Where `evaluate` divides the steps, the last of them has been evaluated.
        judged = module.curve and module.curve[-1].step == recipe.steps

        def judge(split: str) -> None:
            if split != "validation" or not judged:
                trainer.validate(module, data.loader(split), verbose=False)
            metrics.update({f"{split}/{name}": x for name, x in module.metrics().items()})

        judge("validation")
        for name in (task.metric, "bits_per_token"):
            if not math.isfinite(value := metrics[f"validation/{name}"]):
                raise Diverged(f"the validation {name} was {value} after the last step")
        score, left_out = metrics[f"validation/{task.metric}"], []
        judge("test")
        if rank.leads:
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
        for split in task.evaluations:
            try:
                judge(split)
            # What decides nothing costs no trial; a rank would wait for one that ran out.
            except (MemoryError, RuntimeError) as error:
                state, why = ended(error)
                if state != "out of memory" or rank.count > 1:
                    raise
                left_out.append(f"{split}: {state} ({why})")
        log.result(score, metrics)
        if rank.leads and recipe.weights == "all":
            told = {"score": score, "metric": task.metric, "digest": variant.digest}
            log.model(spec, told)
    told = [f"not judged on {'; '.join(left_out)}"] if left_out else []
    fell_back = cost.lowering == "compiled" and compiled.failures()
    if fell_back:
        told.append(f"not compiled, so slower: {compiled.failures()[0]}")
    return {
        "score": score,
        "reason": "; ".join(told) or None,
        "metrics": metrics,
        "parameters": cost.parameters,
        "state_bytes": cost.state_bytes,
        "flops_per_token": cost.flops_per_token,
        "lowering": "chunked" if fell_back else cost.lowering,
        "tokens": module.tokens,
        "compile_seconds": compiled.seconds() - compiling,
        "device": str(module.device),
    }

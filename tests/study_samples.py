"""Studies made up by hand: real spaces, recipes and records, and no training."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console

from miras_search.finals import wanted
from miras_search.folder import RECORD, StudyFolder
from miras_search.recipe import Recipe
from miras_search.record import Point, TrialRecord
from miras_search.report.leaderboard import terminal, variant_of
from miras_search.space import Space
from miras_search.trial import TrialSpec
from miras_search.variant import Variant

HOSTILE = "<script>alert('x')</script> & \"quoted\" [red]$x_1$\n=1+1\x1b[31m"
"""What a failure reason may hold: HTML, a formula, markup of rich, a line break, an escape."""

SPACE = {
    "name": "sample",
    "chunk": 16,
    "memory": ["matrix", {"kind": "mlp", "expansion": 2}],
    "bias": ["l2", {"kind": "lp", "p": 3.0}, {"kind": "huber", "form": "mixture"}],
    "retention": ["none", {"kind": "l2", "per": "channel"}],
    "algorithm": ["gd", "momentum"],
}
TASKS = {
    "mqar": {"kind": "mqar", "length": 64, "pairs": 4, "evaluate_at": [[128, 8]]},
    "bytes": {"kind": "bytes", "length": 64},
}
STEPS = 100


def recipe(task: str = "mqar", **fields: Any) -> Recipe:
    return Recipe.from_dict(
        {"name": "sample", "task": TASKS[task], "steps": STEPS, "lr": [1e-3, 3e-3, 1e-2], **fields}
    )


def variants() -> list[Variant]:
    found = [*Space.from_dict(SPACE, "sample").enumerate()]
    attention = {"memory": "attention", "bias": "dot", "retention": "none", "algorithm": "gd"}
    return [*found, Variant.from_dict(attention | {"chunk": 16})]


def record(
    number: int,
    variant: Variant,
    score: float | None,
    *,
    how: Recipe | None = None,
    lr: float = 1e-3,
    seed: int = 0,
    **fields: Any,
) -> TrialRecord:
    how = how or recipe()
    known: dict[str, Any] = {"state": "failed", "reason": HOSTILE}
    metric = how.task.metric
    if score is not None:
        known = {
            "state": "complete",
            "metrics": {
                f"{split}/{metric}": score - 0.01 * i for i, split in enumerate(how.task.splits[1:])
            },
            "curve": [
                Point(step=step, seconds=step / 10, train_loss=1.0, score=score * step / STEPS)
                for step in range(20, STEPS + 1, 20)
            ],
            "parameters": 118_000 + 97 * number,
            "state_bytes": 4096 * (1 + number % 5),
            "flops_per_token": 250_000,
            "lowering": "chunked",
            "tokens": 100_000,
        }
    return TrialRecord(
        number=number,
        digest=variant.digest,
        variant=variant.to_dict(),
        lr=lr,
        seed=seed,
        recipe=how.to_dict(),
        metric=metric,
        score=score,
        seconds=7.25 + number,
        started=f"2025-06-01T10:{number % 60:02d}:00+00:00",
        device="cpu",
        versions={"python": "3.11.9", "torch": "2.13.0"},
        **known | fields,
    )


def study(how: Recipe) -> list[TrialRecord]:
    """Several variants with one to three learning rates, and failures of each kind."""
    records: list[TrialRecord] = []
    for i, variant in enumerate(variants()):
        for j, lr in enumerate((1e-3, 3e-3, 1e-2)[: 1 + i % 3]):
            low, high = (0.2, 0.95) if how.task.direction == "maximize" else (3.4, 2.1)
            score = low + (high - low) * ((7 * i + 3 * j) % 11) / 10
            records.append(record(len(records), variant, score, how=how, lr=lr))
    for state, reason in (
        ("failed", HOSTILE),
        ("diverged", "the loss was nan at step 100"),
        ("diverged", "the loss was nan at step 12"),
        ("out of memory", None),
    ):
        failed = record(len(records), variants()[2], None, how=how, lr=0.01 * len(records))
        records.append(failed.model_copy(update={"state": state, "reason": reason}))
    return records


def finals(
    searched: Sequence[TrialRecord], how: Recipe, scores: Sequence[float]
) -> list[TrialRecord]:
    """The runs of the finals, seed by seed, with these scores."""
    runs = enumerate(zip(wanted(searched, how).items(), scores, strict=True), len(searched))
    return [
        record(i, variant_of(trial), score, how=how, lr=lr, seed=seed, phase="finals")
        for i, (((_, lr, seed), trial), score) in runs
    ]


def spec(number: int, variant: Variant, how: Recipe, folder: str) -> TrialSpec:
    return TrialSpec(
        number=number,
        variant=variant.to_dict(),
        lr=1e-3,
        seed=0,
        recipe=how.to_dict(),
        folder=folder,
        study="sample",
    )


def folder(path: Any, how: Recipe, records: list[TrialRecord], name: str = "sample") -> StudyFolder:
    made = StudyFolder(path)
    space = Space.from_dict(SPACE, "sample")
    identity = {"name": name, "id": f"{name}-1", "space": space.digest, "recipe": how.digest}
    made.create(identity, space, how)
    for found in records:
        found.write(made.trial(found.number) / RECORD)
    return made


def printed(records: Sequence[TrialRecord], recipe: Recipe, width: int) -> str:
    """The leaderboard as a terminal of so many columns shows it."""
    screen = io.StringIO()
    terminal(records, recipe, Console(file=screen, width=width, color_system=None))
    return screen.getvalue()


def planted(how: Recipe, **effects: float) -> list[TrialRecord]:
    """Noise of one seed a variant, and what each kind adds to it for the better."""
    rng = random.Random(1)
    sign = 1 if how.task.direction == "maximize" else -1
    records: list[TrialRecord] = []
    for variant in variants():
        kinds = {choice.kind for choice in variant.axes().values()}
        worth = 0.02 * rng.gauss(0, 1) + sum(more for k, more in effects.items() if k in kinds)
        records.append(record(len(records), variant, 0.5 + sign * worth, how=how))
    return records


def figure_rows(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    """The numbers of a figure of a report."""
    with (folder.figures / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_settings(
    how: Recipe, settings: Iterable[dict[str, Any]], worth: Callable[[dict[str, Any]], float]
) -> list[TrialRecord]:
    """Noise and what the settings of gd are worth, which are of one trial after another."""
    records, given = [], iter(settings)
    sign = 1 if how.task.direction == "maximize" else -1
    for record in planted(how):
        variant = Variant.from_dict(record.variant)
        changes = {"score": record.score}
        if variant.algorithm.kind == "gd" and variant.memory.kind != "attention":
            own = next(given)
            variant = variant.replace(algorithm=variant.algorithm.model_copy(update=own))
            changes["score"] += sign * worth(own)
        changes |= {"variant": variant.to_dict(), "digest": variant.digest}
        records.append(record.model_copy(update=changes))
    return records

"""A study whose trials are told instead of trained, as a process of its own with its own wandb."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from miras_search import wandb_log
from miras_search.folder import CONFIG, RECORD, WEIGHTS
from miras_search.plan import plan
from miras_search.recipe import Recipe, load_pair
from miras_search.record import Point, TrialRecord
from miras_search.study import Study
from miras_search.trial import TrialSpec, outcome
from miras_search.variant import Variant

STEPS = (2, 4, 6)
LATER = 0.05
"""What the score at the end has over that of the last point."""
NORMS = torch.tensor([1.0, 2.0, 2.0, 3.0, torch.nan])


def points(number: int) -> list[Point]:
    return [
        Point(
            step=step,
            seconds=step / 2,
            train_loss=1 / step,
            score=step / 10 + number / 100,
            surprise={"layer1/loss": 1.5},
        )
        for step in STEPS
    ]


def run(spec: TrialSpec, cut: bool) -> TrialRecord:
    """What `trial.run` does, but for the training; ends after one point if it is cut."""
    variant, recipe = Variant.from_dict(spec.variant), Recipe.from_dict(spec.recipe)
    task = recipe.task
    cost = plan(variant, recipe.size, task.vocabulary, task.length, task.readout)
    curve = points(spec.number)
    score = (curve[-1].score or 0.0) + LATER
    with wandb_log.trial_run(spec, variant, recipe, cost) as log:
        for point in curve:
            log.point(point, {"norm/layer1": NORMS})
            if cut:
                raise KeyboardInterrupt
        log.result(score, {"test/accuracy": 0.25})
        for name in (WEIGHTS, CONFIG):
            Path(spec.folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(spec.folder, name).write_text(f"{name} of {spec.number}")
        if recipe.weights == "all":
            log.model(spec, {"score": score})
    record = outcome(
        spec,
        "complete",
        None,
        score=score,
        curve=tuple(curve),
        parameters=cost.parameters,
    )
    record.write(Path(spec.folder, RECORD))
    return record


def main(folder: Path, cut: int, *overrides: str) -> None:
    """Run the study in `folder`/out until trial number `cut`, or to its end if that is negative."""
    files = (str(folder / "space.yaml"), str(folder / "recipe.yaml"))
    space, recipe = load_pair(*files, [f"out={folder / 'out'}", *overrides])
    with Study.begin(space, recipe) as study:
        try:
            while (spec := study.ask()) is not None:
                study.tell(run(spec, cut=spec.number == cut))
        except KeyboardInterrupt:
            return
        study.publish()
        further = {"effects": [{"name": "memory", "share": 0.5}]}
        wandb_log.summary_run(study.folder, recipe, study.records, further)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])

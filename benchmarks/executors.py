"""What an executor takes for each trial beyond the training: studies of tiny trials."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from miras_search.executor import local, set_up_ray
from miras_search.folder import StudyFolder
from miras_search.lit import SURPRISED, TaskData, loss
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Recipe
from miras_search.space import Space
from miras_search.study import Study
from miras_search.variant import Variant
from miras_search.view import Progress

if TYPE_CHECKING:
    from miras_search.record import TrialRecord

TRIALS = 24
VARIANT = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
RECIPE = {
    "task": {
        "kind": "mqar",
        "length": 32,
        "pairs": 2,
        "vocab": 64,
        "train_examples": 64,
        "eval_examples": 16,
    },
    "size": {"width": 16, "layers": 1, "mlp": 0.0},
    "steps": 2,
    "batch": 8,
    "evaluate": 1,
    "lr": {"log_uniform": [1e-3, 1e-2]},
    "sampler": "random",
    "trials": TRIALS,
    "workers": 1,
}


class Stopwatch(Progress):
    """A view that shows nothing and notes when each trial ended."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.total, [], study.recipe, Console(quiet=True))
        self.ends: list[float] = []

    def finished(self, record: TrialRecord) -> None:
        """A trial ended."""
        if record.state != "complete":
            raise RuntimeError(f"a trial {record.state}: {record.reason}")
        self.ends.append(time.perf_counter())


def between_trials(executor: str, wandb: str = "disabled") -> list[float]:
    """Seconds from the end of one trial to that of the next, once the worker is warm."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"executor": executor, "wandb": wandb, "out": f"{folder}/study"}
        recipe = Recipe.from_dict(RECIPE | settings)
        with Study.begin(Space.from_dict(VARIANT), recipe) as study:
            view = Stopwatch(study)
            if executor == "ray":
                set_up_ray(None)
                from miras_search.executor import ray

                ray.execute(study, 1, view)
            else:
                local.execute(study, 1, view)
    warm = view.ends[2:]
    return [b - a for a, b in pairwise(warm)]


def shares_of_training(executor: str, trials: int = 24, each: float = 20.0) -> tuple[float, float]:
    """Of the time of two workers, how much goes into trials of about `each` seconds from their
    first step to their last evaluation: of the whole command, and from the first trial on."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"space": VARIANT, "recipe": RECIPE | {"workers": 2, "executor": executor}}
        for name, content in files.items():
            Path(folder, f"{name}.yaml").write_text(json.dumps(content))

        def swept(out: str, count: int, steps: int) -> tuple[float, StudyFolder]:
            words = ["sweep", f"{folder}/space.yaml", f"{folder}/recipe.yaml", f"steps={steps}"]
            words += ["batch=64", "size.width=64", f"trials={count}", f"out={folder}/{out}"]
            began = time.perf_counter()
            command = [sys.executable, "-m", "miras_search", *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - began, StudyFolder(Path(folder, out))

        _, pilot = swept("pilot", 2, 200)
        step = sum(r.curve[-1].seconds for r in pilot.records()) / 2 / 200
        wall, study = swept("study", trials, round(each / step))
        records = study.records()
        trained = sum(record.curve[-1].seconds for record in records)
        starts = [datetime.fromisoformat(record.started).timestamp() for record in records]
        ends = [a + record.seconds for a, record in zip(starts, records, strict=True)]
        print(f"{executor}: {trials} trials, {trained / trials:.1f} s of training each")
        return trained / (2 * wall), trained / (2 * (max(ends) - min(starts)))


def plain() -> list[float]:
    """Seconds of the same training and judgements in a loop with nothing around it."""
    recipe, times = Recipe.from_dict(RECIPE), []
    variant = Variant.from_dict(VARIANT)
    for seed in range(TRIALS):
        began = time.perf_counter()
        torch.manual_seed(seed)
        model = Backbone(variant, recipe.size, recipe.task.vocabulary)
        data = TaskData(recipe.task, recipe.batch, recipe.seed)
        optimizer = torch.optim.AdamW(model.parameters())
        for tokens, targets in islice(data.train_dataloader(), recipe.steps):
            optimizer.zero_grad()
            loss(model(tokens)[0], targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or 1.0)
            optimizer.step()
        with torch.no_grad():
            first = next(iter(data.loader("validation")))[0]
            model.surprise(first[: SURPRISED[0], : SURPRISED[1]])
            for split in ("validation", "test", *recipe.task.evaluations):
                for tokens, targets in data.loader(split):
                    logits = model(tokens)[0]
                    loss(logits, targets).item(), (logits.argmax(-1) == targets).sum().item()
        times.append(time.perf_counter() - began)
    return times[2:]

"""What an executor takes for each trial beyond the training: studies of tiny trials."""

from __future__ import annotations

import tempfile
import time
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from miras_search.executor import local, set_up_ray
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

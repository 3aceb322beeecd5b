"""What a task in other settings than its small ones is put to, and a short trial on it."""

import json
import subprocess
import sys

import study_samples as samples

from miras_search import parsing, trial
from miras_search.recipe import Recipe
from miras_search.testing import tasks as suite


def check_all(task):
    """The promises of every task."""
    for split in task.splits:
        suite.check_examples(task, split, seed=0)
        suite.check_levels(task, split)
    suite.check_disjoint(task, seed=0)
    again = parsing.component("task", json.loads(json.dumps(task.to_dict())))
    assert again == task
    one, two = suite.fingerprint(task, 0), suite.fingerprint(task, 1)
    assert not {*one.values()} & {*two.values()}


def check_elsewhere(*given):
    """Another process makes the same examples of tasks given as plain values."""
    script = (
        "import json, sys; from miras_search import parsing;"
        "from miras_search.testing.tasks import fingerprint;"
        "print(json.dumps([fingerprint(parsing.component('task', fields), 7)"
        " for fields in json.loads(sys.argv[1])]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given)], capture_output=True, check=True
    )
    here = [suite.fingerprint(parsing.component("task", fields), 7) for fields in given]
    assert json.loads(found.stdout) == here


def run(tmp_path, task, **fields):
    """Train attention on a task, given as plain values: the task and the record."""
    size = {"width": 32, "layers": 2, "mlp": 0}
    asked = {"task": task, "size": size, "evaluate": 1, "accelerator": "cpu", **fields}
    how = Recipe.from_dict(asked)
    space = {"memory": "attention", "bias": "l2", "retention": "none", "algorithm": "gd"}
    spec = samples.spec(0, samples.Variant.from_dict(space | {"heads": 2}), how, str(tmp_path))
    record = trial.run(spec.model_copy(update={"lr": 1e-2, "wandb": "disabled"}))
    assert record.reason is None
    return how.task, record

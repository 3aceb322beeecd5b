"""A memory that is saved after five episodes and goes on with the sixth in a new process.

    python docs/demos/tomorrow.py TRIAL

TRIAL is the folder of a trial on the task `continual`, evaluated on six episodes or more
(recipes/continual.yaml), such as runs/<study>/trials/00000. Nothing is trained here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from miras_search import load, load_state, save_state
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord
from miras_search.tasks.base import IGNORE
from miras_search.tasks.continual import Continual

if TYPE_CHECKING:
    from torch import Tensor

DAYS = 5
"""Episodes of the first process."""


def streams(trial: str) -> list[tuple[Tensor, Tensor]]:
    """Tokens and targets of the first six episodes with questions about each, `[N, T]`."""
    record = TrialRecord.read(Path(trial) / "record.json")
    task = Recipe.from_dict(record.recipe).task
    if not isinstance(task, Continual) or f"after{DAYS + 1}-on1" not in task.evaluations:
        sys.exit(
            f"{trial}: expected a trial on `continual` that is evaluated on {DAYS + 1} episodes"
        )
    found = []
    for on in range(1, DAYS + 2):
        rows = task.dataset(f"after{DAYS + 1}-on{on}", record.seed)
        tokens, targets = zip(*(rows[i] for i in range(len(rows))), strict=True)
        found.append((torch.stack(tokens), torch.stack(targets)))
    return found


def told(trial: str) -> int:
    """Tokens of an episode's lessons."""
    task = Recipe.from_dict(TrialRecord.read(Path(trial) / "record.json").recipe).task
    assert isinstance(task, Continual)
    return task.items * task.shots * (task.cue + 1)


@torch.no_grad()
def today(trial: str, file: str) -> None:
    """Read five episodes and keep the memory."""
    tokens, _ = streams(trial)[0]
    _, state = load(trial)(tokens[:, : DAYS * told(trial)])
    save_state(state, file)
    print(f"process {os.getpid()} read {DAYS} episodes in {len(tokens)} streams")
    print(f"and kept {Path(file).stat().st_size / len(tokens):,.0f} bytes of each in a file")


@torch.no_grad()
def tomorrow(trial: str, file: str) -> None:
    """Read the sixth, and answer questions about all of them."""
    model, state = load(trial), load_state(file)
    print(f"process {os.getpid()} reads episode {DAYS + 1}; accuracy on the questions about")
    for on, (tokens, targets) in enumerate(streams(trial), start=1):
        cut = DAYS * told(trial)
        logits, _ = model(tokens[:, cut:], state)
        whole, _ = model(tokens)
        right, at_once = (
            float((x.argmax(-1) == y)[y != IGNORE].float().mean())
            for x, y in ((logits, targets[:, cut:]), (whole, targets))
        )
        print(f"  episode {on}: {right:.3f} ({at_once:.3f} if read in one go)")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [trial]:
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "memory.safetensors")
                for day in ("today", "tomorrow"):
                    subprocess.run([sys.executable, __file__, trial, day, file], check=True)
        case [trial, "today", file]:
            today(trial, file)
        case [trial, "tomorrow", file]:
            tomorrow(trial, file)
        case _:
            sys.exit(__doc__)

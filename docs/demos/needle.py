"""A number told once in a million bytes, read with a state of constant size.

    python docs/demos/needle.py TRIAL [LENGTH]

TRIAL is the folder of a trial on the task `needle` (recipes/needle.yaml), such as
runs/<study>/trials/00000. Five texts of LENGTH bytes, 1000000 unless given, hide a number at five
depths; the model reads each once, from left to right, and writes what it is asked for.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from miras_search import load
from miras_search.nn.state import nbytes
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord
from miras_search.tasks.base import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.nn.backbone import Backbone

DEPTHS, PIECE = 5, 8192


def texts(trial: str, length: int) -> tuple[list[str], Tensor, Tensor]:
    """Depths, and tokens up to the question's end `[5, T]` with the answers to it `[5, digits]`."""
    record = TrialRecord.read(Path(trial) / "record.json")
    task = record.recipe["task"]
    if task["kind"] != "needle":
        sys.exit(f"{trial}: expected a trial on `needle`, got one on `{task['kind']}`")
    grid = {
        "length": length,
        "evaluate_at": [],
        "grid": True,
        "depths": DEPTHS,
        "further_examples": 1,
    }
    task = Recipe.from_dict(record.recipe | {"task": task | grid}).task
    names = [name for name in task.evaluations if "@" in name]
    rows = [task.dataset(name, record.seed)[0] for name in names]
    tokens, targets = (torch.stack(z) for z in zip(*rows, strict=True))
    scored = targets != IGNORE
    asked = int(scored[0].int().argmax()) + 1
    return [n.split("@")[1] for n in names], tokens[:, :asked], targets[scored].view(DEPTHS, -1)


@torch.no_grad()
def answer(model: Backbone, tokens: Tensor, digits: int) -> tuple[Tensor, list[int]]:
    """What is written after reading piece by piece, `[N, digits]`, and the bytes of the state of a
    text after each piece."""
    state, sizes = None, []
    for _, state in model.stream(tokens[:, :-1].split(PIECE, dim=1)):
        sizes.append(sum(map(nbytes, state)) // len(tokens))
    return model.generate(tokens[:, -1:], digits, state, temperature=0)[0], sizes


def main(trial: str, length: int) -> None:
    """Read, ask, and print what is right."""
    depths, tokens, answers = texts(trial, length)
    began = time.monotonic()
    written, sizes = answer(load(trial), tokens, answers.shape[1])
    rate = tokens.numel() / (time.monotonic() - began)
    for depth, told, said in zip(depths, answers.tolist(), written.tolist(), strict=True):
        verdict = "right" if told == said else "wrong"
        print(f"depth {depth}: told {bytes(told)!r}, wrote {bytes(said)!r}: {verdict}")
    right = int((answers == written).all(1).sum())
    print(f"{right} of {DEPTHS} right at {length:,} bytes; {rate:,.0f} bytes a second")
    print(f"the state of a text took {sizes[0]:,} bytes at first, {sizes[-1]:,} at the end;")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB in all")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [trial]:
            main(trial, 1_000_000)
        case [trial, length] if length.isdecimal():
            main(trial, int(length))
        case _:
            sys.exit(__doc__)

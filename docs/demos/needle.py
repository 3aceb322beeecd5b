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

import torch

from miras_search import load
from miras_search.nn.state import nbytes
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord
from miras_search.tasks.base import IGNORE

DEPTHS, PIECE = 5, 8192


@torch.no_grad()
def main(trial: str, length: int) -> None:
    """Read, ask, and print what is right."""
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
    recipe = Recipe.from_dict(record.recipe | {"task": task | grid})
    names = [name for name in recipe.task.evaluations if "@" in name]
    rows = [recipe.task.dataset(name, record.seed)[0] for name in names]
    tokens, targets = (torch.stack(z) for z in zip(*rows, strict=True))
    scored = targets != IGNORE
    asked = int(scored[0].int().argmax())  # the last token of the question
    answers = targets[scored].view(DEPTHS, -1)

    model, state = load(trial), None
    model.eval()
    began = time.monotonic()
    sizes = []
    for _, state in model.stream(tokens[:, :asked].split(PIECE, dim=1)):
        sizes.append(sum(map(nbytes, state)) // DEPTHS)
    rate = DEPTHS * asked / (time.monotonic() - began)
    written, _ = model.generate(tokens[:, [asked]], answers.shape[1], state, temperature=0)

    for name, told, said in zip(names, answers.tolist(), written.tolist(), strict=True):
        verdict = "right" if told == said else "wrong"
        print(f"depth {name.split('@')[1]}: told {bytes(told)!r}, wrote {bytes(said)!r}: {verdict}")
    right = int((answers == written).all(1).sum())
    times = length // task["length"]
    print(f"{right} of {DEPTHS} right at {length:,} bytes, {times:,} times those of training")
    print(f"{rate:,.0f} bytes a second")
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

"""How long a sweep will take: a few training steps of a few variants, timed before it starts."""

from __future__ import annotations

import math
import time
from statistics import mean
from typing import TYPE_CHECKING

from miras_search import reach
from miras_search.errors import UserError
from miras_search.executor import cores, gpus, trials_at_once
from miras_search.study import total_finals, total_trials

if TYPE_CHECKING:
    from miras_search.recipe import Recipe
    from miras_search.size import Size
    from miras_search.space import Space
    from miras_search.variant import Variant

SAMPLED = 6
"""Variants timed; a sweep is estimated from their mean."""
FIRST = 32
"""Tokens of each sequence in the first step that is timed."""
PATIENCE = 5.0
"""Seconds a step may take to be timed whole; of a longer one, the first tokens say enough, and the
first sequences if these take an eighth of it."""
LARGE = 2**26
"""Parameters up to which a model is built whole to be timed: of a larger one, a few layers are."""
COMPILING = 60.0
"""Seconds that torch.compile takes for a variant, more or less; steps are timed without it."""
STARTUP = 10.0
"""Seconds until a fresh worker process has imported everything."""


def seconds(space: Space, recipe: Recipe) -> float:
    """The estimated duration of a whole sweep on this machine.

    Raises:
        UserError: a variant is too large to be built here.
    """
    import torch

    workers = trials_at_once(recipe)
    trials = total_trials(space, recipe) + total_finals(space, recipe)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // workers))
    try:
        each = mean(_trial_seconds(*found) for found in reach.sample(space, recipe, SAMPLED))
    finally:
        torch.set_num_threads(before)
    return STARTUP + each * math.ceil(trials / workers)


def _trial_seconds(variant: Variant, recipe: Recipe) -> float:
    """One trial, from the times of a training step and of a held-out batch."""
    from miras_search.plan import choose_lowering, plan

    if choose_lowering(variant, recipe.lowering).name == "compiled":
        plain = recipe.model_copy(update={"compile": False})
        return COMPILING + _trial_seconds(variant, plain)
    task = recipe.task
    size, few = recipe.size, variant.macro.depth
    try:
        cost = plan(variant, size, task.vocabulary, task.length, task.readout)
        if cost.parameters <= LARGE or size.layers <= 2 * few:
            return _timed(variant, recipe, size)
        # What the layers take beside what is above and below them.
        once, twice = (_timed(variant, recipe, _of(size, n)) for n in (few, 2 * few))
        return once + max(0.0, twice - once) * (size.layers / few - 1)
    except RuntimeError as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{variant} cannot be built on this machine: {told}") from None


def _of(size: Size, layers: int) -> Size:
    """The same width with other layers."""
    return size.model_copy(update={"layers": layers})


def _timed(variant: Variant, recipe: Recipe, size: Size) -> float:
    """One trial at a size of as many layers as are to be timed."""
    import torch

    from miras_search.data.examples import parts
    from miras_search.lit import MemoryModule, TaskData, loss

    task = recipe.task
    device = torch.accelerator.current_accelerator() if gpus(recipe) else torch.device("cpu")
    data = TaskData(task, recipe.batch, recipe.seed)
    module = MemoryModule(variant, recipe.model_copy(update={"size": size}), lr=0.0).to(device)
    tokens, targets = (x.to(device) for x in next(iter(data.loader("validation"))))

    def since(began: float) -> float:
        if gpus(recipe):
            torch.accelerator.synchronize()
        return time.monotonic() - began

    def step(count: int, length: int) -> float:
        began = time.monotonic()
        loss(module(tokens[:count, :length]), targets[:count, :length]).backward()
        return since(began)

    # Held-out sets are read in larger batches than are trained on.
    batch, length = min(recipe.batch, len(tokens)), tokens.shape[1]
    count, start = 1, min(FIRST, length)
    step(count, start)  # the first step allocates
    # Of two, so that one that was held up counts for nothing.
    while (first := min(step(count, start), step(count, start))) < PATIENCE / 8 and count < batch:
        count = min(4 * count, batch)
    first *= batch / count * length / start  # time grows with the length
    if first > PATIENCE:
        trained, held_out = first, first / 3 * len(tokens) / batch
    else:
        step(batch, length)
        trained = step(batch, length)
        with torch.inference_mode():
            began = time.monotonic()
            module(tokens)
            held_out = since(began)
    trained *= recipe.batch / batch
    # Sets in units of the batch just read: examples differ in length.
    held = {split: task.dataset(split, recipe.seed) for split in task.splits[1:]}
    read = {split: len(s) * len(s[0][0]) / tokens.numel() for split, s in held.items()}  # pyright: ignore[reportArgumentType]
    evaluated = recipe.evaluate * read["validation"] + sum(read.values())
    # Time grows with the length, and those trained on may be others.
    sets = [(len(part), len(part[0][0])) for part in parts(task.dataset("train", recipe.seed))]
    longer = sum(n * tokens for n, tokens in sets) / sum(n for n, _ in sets) / length
    return recipe.steps * trained * longer + evaluated * held_out

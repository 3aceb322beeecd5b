"""What every task promises, as checks that any registered task can be put to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from miras_search import parsing, registry
from miras_search.tasks.base import IGNORE, Task


def small(kind: str) -> Task:
    """The instance of a registered kind that its `small` fields describe."""
    cls = registry.find("task", kind)
    assert issubclass(cls, Task), f"{cls} is registered as a task"
    task = parsing.component("task", {"kind": kind, **cls.small})
    assert isinstance(task, Task)
    return task


def examples(task: Task, split: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every (tokens, targets) of a split."""
    dataset = task.dataset(split, seed)
    for index in range(len(dataset)):  # pyright: ignore[reportArgumentType]
        yield dataset[index]


def check_examples(task: Task, split: str, seed: int) -> None:
    """Types, shapes and ranges; something is scored in every example."""
    lengths = set()
    for tokens, targets in examples(task, split, seed):
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.shape == targets.shape == (len(tokens),)
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < task.vocabulary
        scored = targets[targets != IGNORE]
        assert len(scored) > 0, "an example without a scored position"
        assert 0 <= int(scored.min()) <= int(scored.max()) < task.vocabulary
        lengths.add(len(tokens))
    assert len(lengths) == 1, f"examples of {split} have lengths {lengths}: expected one"
    if split not in task.evaluations:
        assert lengths == {task.length}


def check_disjoint(task: Task, seed: int) -> None:
    """No example of a split, all its tokens compared, is in another split."""
    seen: dict[bytes, str] = {}
    for split in task.splits:
        for content in {tokens.numpy().tobytes() for tokens, _ in examples(task, split, seed)}:
            assert content not in seen, f"an example of {split} is also in {seen[content]}"
            seen[content] = split


def check_levels(task: Task, split: str) -> None:
    """Chance, plateau and ceiling get better in that order and lie in the metric's range."""
    levels = task.levels(split)
    known = [x for x in (levels.chance, levels.plateau, levels.ceiling) if x is not None]
    assert known == sorted(known, reverse=task.direction == "minimize")
    assert all(level >= 0 for level in known)
    assert task.metric != "accuracy" or all(level <= 1 for level in known)


def fingerprint(task: Task, seed: int) -> dict[str, str]:
    """A hash of every example of every split, in order."""
    hashes = {}
    for split in task.splits:
        digest = hashlib.sha256()
        for tokens, targets in examples(task, split, seed):
            digest.update(tokens.numpy().tobytes() + targets.numpy().tobytes())
        hashes[split] = digest.hexdigest()
    return hashes

"""What every task promises, as checks that any registered task can be put to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from miras_search import parsing, registry
from miras_search.data.examples import parts
from miras_search.tasks.base import IGNORE, Metric, Task


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
        assert tokens.dtype == targets.dtype == torch.int64, (
            f"tokens are {tokens.dtype}, targets {targets.dtype}: expected int64"
        )
        assert tokens.shape == targets.shape == (len(tokens),), (
            f"tokens have shape {tuple(tokens.shape)}, targets {tuple(targets.shape)}: expected [T]"
        )
        scored = targets[targets != IGNORE]
        assert len(scored) > 0, f"an example of {split} without a scored position"
        for name, values in (("tokens", tokens), ("scored targets", scored)):
            assert 0 <= int(values.min()) <= int(values.max()) < task.vocabulary, (
                f"{name} of {split} go from {values.min()} to {values.max()}: expected numbers "
                f"below the vocabulary, {task.vocabulary}"
            )
        lengths.add(len(tokens))
    assert lengths, f"{split} has no example: refuse such fields with InvalidValues in `dataset`"
    if split == "train":
        assert sorted(lengths) == sorted(task.train_lengths), (
            f"examples of train have lengths {sorted(lengths)}: expected {task.train_lengths}"
        )
        for part in parts(task.dataset(split, seed)):
            mixed = {len(part[index][0]) for index in range(len(part))}
            assert len(mixed) == 1, (
                f"a part of train has lengths {sorted(mixed)}: expected one, and a ConcatDataset "
                "of such parts where train mixes lengths"
            )
        return
    expected = {task.length} if split not in task.evaluations else lengths
    expected = {task.at_lengths[split]} if split in task.at_lengths else expected
    assert len(lengths) == 1 == len(lengths & expected), (
        f"examples of {split} have lengths {sorted(lengths)}: expected one, {task.length} unless "
        "it is a further evaluation, and what `at_lengths` says of it"
    )


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
    assert known == sorted(known, reverse=task.direction == "minimize"), (
        f"{levels} of {split}: expected each better than the one before"
    )
    assert task.metric in get_args(Metric), f"metric '{task.metric}': expected one of {Metric}"
    highest = float("inf") if task.metric == "bits_per_token" else 1
    assert all(0 <= level <= highest for level in known), (
        f"{levels} of {split}: expected {task.metric} between 0 and {highest}"
    )


def fingerprint(task: Task, seed: int) -> dict[str, str]:
    """A hash of every example of every split, in order."""
    hashes = {}
    for split in task.splits:
        digest = hashlib.sha256()
        for tokens, targets in examples(task, split, seed):
            digest.update(tokens.numpy().tobytes() + targets.numpy().tobytes())
        hashes[split] = digest.hexdigest()
    return hashes

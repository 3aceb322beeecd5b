"""Byte-level language modelling of real text: say the next byte."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from miras_search.registry import register
from miras_search.tasks.base import AtLengths, Count, Levels, Metric

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from miras_search.data.examples import Windows


@register
class Bytes(AtLengths):
    """Predict every next byte of windows of text files.

        token    105 109 112 111     "impo"
        target   109 112 111 114     "mpor"

    The text is the Python standard library's own sources with their documentation strings, so
    it differs a little from one Python to the next, or what `files` names. Files are split, not
    windows: equal files count once, and each file is in training, validation or test whatever
    the seed. Windows that stand whole in files of two splits are dropped as well. Files may still
    share less than a window, such as a licence notice, or text with small changes.

    Training windows begin anywhere, chosen by the seed. Held-out windows lie end to end in their
    files, spread evenly, the same for every seed. Further evaluations read the test files at
    other lengths: a longer window is of files that are as long, so that text differs as well.
    """

    kind: ClassVar[str] = "bytes"
    equation: ClassVar[str] = "x1 .. xt -> x(t+1)"
    source: ClassVar[str] = "Shannon 1951, Prediction and entropy of printed English"
    metric: ClassVar[Metric] = "bits_per_token"
    same_held_out: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "length": 64,
        "max_bytes": 400_000,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [32, 256],
    }

    length: Count = 256
    files: str | None = None
    """A glob from the current folder, `**` for any depth; null is the standard library."""
    max_bytes: Count = 4_000_000
    """Text used at most, taken from all over the files."""
    train_examples: Count = 16_384
    """Training windows at most; with the other defaults about one pass over the text."""
    eval_examples: Count = 512
    """Windows in each held-out split at most."""

    @property
    def vocabulary(self) -> int:
        return 256

    def levels(self, split: str) -> Levels:
        """Chance is any byte; the entropy of the text is unknown, and nothing is a plateau."""
        self.check_split(split)
        return Levels(chance=8.0)

    def dataset(self, split: str, seed: int) -> Windows:
        from miras_search.data.text import matching, standard_library

        self.check_split(split)
        # Found anew each time: the current folder and what is in it are no part of the task.
        paths = standard_library() if self.files is None else matching(self.files)
        seeded = seed if split == "train" else None
        return _windows(self, tuple(paths), split, seeded)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=16)
def _windows(task: Bytes, paths: tuple[Path, ...], split: str, seed: int | None) -> Windows:
    import torch

    from miras_search.data.examples import generator
    from miras_search.data.text import split_files, windows

    files = split_files(paths, task.length + 1, task.max_bytes)
    if split == "train":
        found = windows(files, split, task.length, stride=1)
        order = torch.randperm(len(found), generator=generator("bytes", seed))
        found.starts = found.starts[order[: task.train_examples]]
        return found
    length = task.length_of(split)
    source = "test" if split in task.evaluations else split
    found = windows(files, source, length, stride=length)
    count = min(task.eval_examples, len(found))
    found.starts = found.starts[torch.arange(count) * len(found) // count]
    return found

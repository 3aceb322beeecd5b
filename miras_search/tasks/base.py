"""What a task is: seeded, disjoint sets of token sequences, and the score that ranks models."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainSerializer, field_validator

from miras_search.component import Component
from miras_search.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationInfo
    from torch import Tensor
    from torch.utils.data import Dataset

IGNORE = -100
"""The target of a position that is not scored."""

Metric = Literal["accuracy", "exact", "bits_per_token"]
METRICS: dict[Metric, str] = {
    "accuracy": "the share of scored positions whose most likely token is the target",
    "exact": "the share of examples whose most likely tokens are the targets at every position",
    "bits_per_token": "the mean cross-entropy of scored positions in bits",
}
"""What each is; the last in bits per byte where a token is a byte."""

Readout = Literal["each", "last"]
"""Whether the target at a position is read from its own hidden state, or, like every other, from
that of the last token."""

Count = Annotated[int, Field(ge=1)]
"""A number of tokens, examples, pairs, ..."""

# YAML has lists only; a component has tuples only, to be hashable.
Lengths = Annotated[tuple[Count, ...], Field(strict=False), PlainSerializer(list)]
"""Numbers of tokens."""
Pair = Annotated[tuple[Count, Count], Field(strict=False)]
LISTS = PlainSerializer(lambda rows: [*map(list, rows)])
Pairs = Annotated[tuple[Pair, ...], Field(strict=False), LISTS]
"""Pairs of numbers, such as a length and how many examples have it."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What to hold a score against, in the task's metric; None where nobody knows.

    A score without them misleads: recall is learned in jumps, so a run at the plateau may be
    an epoch from solving the task, and the best reachable score is not always perfect.
    """

    chance: float | None = None
    """A guess that ignores the input."""
    plateau: float | None = None
    """What half-learned models sit at, for many epochs: the input's parts known, not their use."""
    ceiling: float | None = None
    """The best reachable."""


class Task(Component):
    """Predict a target token at each scored position of a token sequence."""

    axis: ClassVar[str] = "task"

    metric: ClassVar[Metric]
    """What ranks variants."""
    readout: ClassVar[Readout] = "each"
    """What a target is said from; with "last" a model reads the whole example before it answers."""
    same_held_out: ClassVar[bool] = False
    """Whether held-out examples are the same for every seed."""
    small: ClassVar[Mapping[str, Any]] = {}
    """Field values, as YAML gives them, of an instance small enough for conformance tests."""

    length: Count
    """Tokens in an example of "validation" and "test", and of "train" unless it mixes lengths.
    A task whose other fields settle it may declare a `ClassVar[property]` in place of the field."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of distinct tokens; inputs and scored targets are below it."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Which scores are better."""
        return "minimize" if self.metric == "bits_per_token" else "maximize"

    @property
    def train_lengths(self) -> tuple[int, ...]:
        """Tokens in the examples of "train": every length that there is, each once."""
        return (self.length,)

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Names of further held-out sets, reported and never selected on."""
        return ()

    @property
    def at_lengths(self) -> dict[str, int]:
        """Held-out sets that differ in the length of their examples alone, and their tokens; empty
        for a task that is not asked at several lengths."""
        return {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Every name that `dataset` takes."""
        return ("train", "validation", "test", *self.evaluations)

    @abstractmethod
    def levels(self, split: str) -> Levels:
        """Chance, plateau and ceiling of the metric on one of `splits`."""

    @abstractmethod
    def dataset(self, split: str, seed: int) -> Dataset[tuple[Tensor, Tensor]]:
        """The examples of one of `splits`.

        A map-style dataset of fixed size; item i is (tokens, targets), two int64 tensors `[T]`,
        the same for the same fields, split, seed and i in every process. targets[t] is what the
        model should say after reading tokens[: t + 1] (all of them if the `readout` is "last"), or
        `IGNORE`. No example of one split is in another. Held-out splits are the same for every
        seed where `same_held_out` says so, and else for none.

        All examples of a split have one length. Only "train" may mix those of `train_lengths`: it
        is then a `torch.utils.data.ConcatDataset` whose parts have one length each. A batch never
        mixes lengths: it comes from one part.

        Raises:
            InvalidValues: the data cannot be had, such as a file that is not there, with the
                field at fault.
            ValueError: no such split.
        """

    def check_split(self, split: str) -> None:
        """Refuse a name that is not one of `splits`."""
        if split not in self.splits:
            raise ValueError(f"task {self} has no split '{split}': {nearest(split, self.splits)}")


class AtLengths(Task):
    """A task whose further evaluations are held-out examples of other lengths."""

    evaluate_at: Lengths = ()
    """Length of each further evaluation, which is named like "4096"."""

    @field_validator("evaluate_at")
    @classmethod
    def _each_once(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len({info.data.get("length"), *lengths}) < 1 + len(lengths):
            raise ValueError(
                "expected each length once, and not that of validation and test, "
                f"{info.data.get('length')}"
            )
        return lengths

    @property
    def evaluations(self) -> tuple[str, ...]:
        return tuple(map(str, self.evaluate_at))

    @property
    def at_lengths(self) -> dict[str, int]:
        return {split: self.length_of(split) for split in ("test", *map(str, self.evaluate_at))}

    def length_of(self, split: str) -> int:
        """Tokens of an example of one of `splits`."""
        self.check_split(split)
        return int(split) if split in self.evaluations else self.length

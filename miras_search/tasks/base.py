"""What a task is: seeded, disjoint sets of token sequences, and the score that ranks models."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from miras_search.component import Component

if TYPE_CHECKING:
    from torch.utils.data import Dataset

IGNORE = -100
"""The target of a position that is not scored."""

Metric = Literal["accuracy", "bits_per_token", "loss"]


class Task(Component):
    """Predict a target token at each scored position of a token sequence."""

    axis: ClassVar[str] = "task"

    metric: ClassVar[Metric]
    """What ranks variants: accuracy over scored positions is maximised, the others minimised."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of distinct tokens; inputs and targets are below it."""

    @property
    @abstractmethod
    def chance(self) -> float | None:
        """The metric of guessing, or None if unknown."""

    @property
    @abstractmethod
    def ceiling(self) -> float | None:
        """The best reachable metric, or None if unknown."""

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Names of further held-out sets, beside "validation" and "test", that are reported."""
        return ()

    @abstractmethod
    def dataset(self, split: str, seed: int) -> Dataset:
        """The examples of "train", "validation", "test" or one of `evaluations`.

        A map-style dataset of fixed size; item i is (tokens, targets), two int64 tensors `[T]`,
        the same for the same fields, split, seed and i in every process. targets[t] is what the
        model should say after reading tokens[: t + 1], or `IGNORE`. No example of one split is
        in another.
        """

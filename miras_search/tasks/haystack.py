"""What tasks have in common that hide something in a long text and ask for it at the end."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_validator, model_validator

from miras_search.tasks.base import AtLengths, Count, Metric, Pairs

if TYPE_CHECKING:
    from pydantic import ValidationInfo
    from torch import Tensor
    from torch.utils.data import ConcatDataset

    from miras_search.data.haystack import Answers

_OWN = ("train", "validation", "test")
"""Sets of the task's own length; all others are further evaluations."""


class Haystack(AtLengths):
    """Read a text of exactly `length` bytes that ends with a question, and say its answer.

    A token is a byte. Only the bytes of the answer, the last ones, are scored, each after those
    before it are read; an example counts if all of them are right, and then greedy decoding writes
    the answer.

    What is asked for in training is asked for in no held-out set, whatever the seed, and the same
    holds between validation, test and the further evaluations; `home` decides. A file of running
    text is in one of training, validation and what else is held out. Held-out sets are the same for
    every seed.
    """

    metric: ClassVar[Metric] = "exact"
    same_held_out: ClassVar[bool] = True

    length: Count = 1024
    """Bytes, question and answer among them."""
    files: str | None = None
    """A glob of texts from the current folder, `**` for any depth; null is the documentation in the
    standard library."""
    train_examples: Count = 100_000
    train_at: Pairs = ()
    """[length, examples] of each further training set; a batch is from one set."""
    eval_examples: Count = 500
    """Examples in validation and in the test."""
    further_examples: Count = 100
    """Examples in each further evaluation."""

    @property
    @abstractmethod
    def least(self) -> int:
        """Bytes that an example must have."""

    @property
    def uses_files(self) -> bool:
        """Whether the haystack is running text."""
        return True

    @abstractmethod
    def write(self, split: str, seed: int | None, text: bytes, index: int) -> tuple[bytes, bytes]:
        """One example: all before the answer, and the answer. No seed for held-out sets."""

    @field_validator("train_at")
    @classmethod
    def _one_set_each(cls, sets: tuple[tuple[int, int], ...], info: ValidationInfo) -> Any:
        lengths = [info.data.get("length"), *(length for length, _ in sets)]
        if len({*lengths}) < len(lengths):
            raise ValueError(
                f"expected each length once, and not that of the main set, {lengths[0]}"
            )
        return sets

    @model_validator(mode="after")
    def _lengths_fit(self) -> Haystack:
        if (shortest := min((*self.train_lengths, *self.evaluate_at))) < self.least:
            raise ValueError(
                f"{shortest} bytes are too few for what is hidden, the question and some text: "
                f"expected at least {self.least}"
            )
        return self

    @property
    def vocabulary(self) -> int:
        return 256

    @property
    def train_lengths(self) -> tuple[int, ...]:
        return (self.length, *(length for length, _ in self.train_at))

    def part(self, split: str) -> str:
        """Where `home` must put what is asked for in a split."""
        return split if split in _OWN else "further"

    def dataset(self, split: str, seed: int) -> Answers | ConcatDataset[tuple[Tensor, Tensor]]:
        from miras_search.data.haystack import Answers, running_text

        self.check_split(split)
        text = b""
        if self.uses_files:
            text = running_text(self.files)[split if split in ("train", "validation") else "test"]
        if split == "train":
            return self._train(seed, text)
        count = self.eval_examples if split in _OWN else self.further_examples
        return Answers(range(count), partial(self.write, split, None, text))

    def _train(self, seed: int, text: bytes) -> Answers | ConcatDataset[tuple[Tensor, Tensor]]:
        """The main set, or sets with numbers that go on from one to the next."""
        from torch.utils.data import ConcatDataset

        from miras_search.data.haystack import Answers

        sets, first = [], 0
        for length, count in ((self.length, self.train_examples), *self.train_at):
            task = self.model_copy(update={"length": length})
            numbers = range(first, first := first + count)
            sets.append(Answers(numbers, partial(task.write, "train", seed, text)))
        return ConcatDataset(sets) if self.train_at else sets[0]

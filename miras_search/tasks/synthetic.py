"""What tasks made up by a rule share: how many examples, of which length, and in which split."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from miras_search.tasks.base import AtLengths, Count, Metric

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from miras_search.data.examples import Rows


class Synthetic(AtLengths):
    """A task whose examples are drawn at random, as many as wanted.

    The tokens of an example decide whether it is for training (half of all that there are),
    validation or the test (a quarter each), so that what is trained on under one seed is not
    tested on under another. Within a split no example stands twice. The seed decides which
    examples are drawn. Further evaluations have other lengths.

    The defaults are those of MAD's baseline settings.
    """

    metric: ClassVar[Metric] = "accuracy"

    train_examples: Count = 12_800
    eval_examples: Count = 1_280
    """Examples in each held-out split."""

    def problem(self, length: int) -> str | None:
        """Why an example cannot have so many tokens under these fields, as what is expected."""
        return None

    @model_validator(mode="after")
    def _lengths_work(self) -> Synthetic:
        for length in (self.length, *self.evaluate_at):
            if problem := self.problem(length):
                raise ValueError(f"{problem}, got length {length}")
        return self

    @abstractmethod
    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        """Tokens and targets, `[count, T]` int64 each, for a split but not yet of that split.

        Args:
            split: one of `splits`; it decides the length, and what else differs by design.
            count: how many.
            seed: of what all splits of a data set have in common, if anything.
            random: where chance comes from.
        """

    def dataset(self, split: str, seed: int) -> Rows:
        self.check_split(split)
        return _dataset(self, split, seed)  # pyright: ignore[reportArgumentType]


class Recall(Synthetic):
    """A task of sequences in which some tokens follow from what is before them.

    The paper's library trains on every next token and scores these alone, averaged over classes.
    Here training asks for these alone as well, unless told otherwise, and the score is a mean over
    all of them. Its examples lack the last token, after which nothing is asked.
    """

    train_on: Literal["probes", "all"] = "probes"
    """Whether training asks for what is scored, or for every next token."""

    def problem(self, length: int) -> str | None:
        """An example is pairs of a key and a value, two at least, unless a subclass says so."""
        return "expected even lengths of at least 4" if length % 2 or length < 4 else None

    @abstractmethod
    def sequences(self, split: str, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        """Tokens, `[count, T]` int64, and which of them are scored, bool."""

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        from miras_search.data.pairs import say_next

        sequence, asked = self.sequences(split, count, random)
        return say_next(sequence, asked | (split == "train" and self.train_on == "all"))


@lru_cache(maxsize=8)
def _dataset(task: Synthetic, split: str, seed: int) -> Rows:
    from miras_search.data.examples import generator
    from miras_search.data.splits import collect

    random = generator(task.kind, seed, split)
    field = "train_examples" if split == "train" else "eval_examples"
    return collect(
        lambda count: task.draw(split, count, seed, random),
        part="test" if split in task.evaluations else split,
        count=getattr(task, field),
        field=field,
    )

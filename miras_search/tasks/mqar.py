"""Multi-query associative recall: read key-value pairs, then say the value of each key asked."""

from __future__ import annotations

from functools import lru_cache
from math import perm
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from miras_search.registry import register
from miras_search.tasks.base import IGNORE, LISTS, Count, Levels, Metric, Pairs, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationInfo
    from torch import Tensor
    from torch.utils.data import ConcatDataset

    from miras_search.data.examples import Rows

Set = Annotated[tuple[Count, Count, Count], Field(strict=False)]
Sets = Annotated[tuple[Set, ...], Field(strict=False), LISTS]

_ROOM = 4
"""Times more ways to fill the pairs than examples: redrawing a repeat then ends at once."""


@register
class Mqar(Task):
    """Recall among random pairs, as in Zoology.

    `pairs` keys and their values fill the first 2 * pairs tokens. Each key is asked once more
    at an even offset after them; its value is the target there, and nothing else is scored.
    Keys are 1 .. vocab/2 - 1, values vocab/2 .. vocab - 1, both drawn without replacement. With
    length 16, pairs 2, vocab 12 and fill "zero":

        token    4   8   2  11 |  0   0   2   0   4   0   0   0   0   0   0   0
        target   .   .   .   . |  .   .  11   .   8   .   .   .   .   .   .   .
               key val key val |        ask     ask

    Key n is asked at the n-th slot drawn without replacement from the (length - 2 * pairs) / 2
    slots, slot g = 1, 2, ... with weight power * g^(power - 1): a small power crowds the questions
    right after the pairs, 1 spreads them evenly. With fill "random" every unused token (0 above)
    is any token, sometimes a key: such an accident is not scored.

    Training may mix lengths and numbers of pairs, as in Zoology's later suite: `train_at` adds sets
    to the main one.

    The pairs (the first 2 * pairs tokens) of every example are unique over all splits of a seed,
    so neither an example nor its answers can be known by heart.
    """

    kind: ClassVar[str] = "mqar"
    equation: ClassVar[str] = "k1 v1 ... kN vN ... kn -> vn"
    source: ClassVar[str] = "Zoology 2312.04927, section 4 and its multiquery_ar generator"
    metric: ClassVar[Metric] = "accuracy"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 16,
        "pairs": 2,
        "vocab": 64,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [[32, 2], [32, 4], [16, 1]],
    }

    length: Count = 64
    pairs: Count = Field(4, validate_default=True)
    """Keys to remember, all of them asked."""
    train_examples: Count = 100_000
    eval_examples: Count = 3_000
    """Examples in each held-out split."""
    evaluate_at: Pairs = ()
    """[length, pairs] of each further evaluation, which is named like "128x8"."""
    train_at: Sets = ()
    """[length, pairs, examples] of each further training set; a batch is from one set."""
    power: Annotated[float, Field(gt=0, le=1)] = 0.01
    """a in the weight a * g^(a - 1) of a question's slot; 1 is uniform."""
    fill: Literal["random", "zero"] = "random"
    """What stands at unused positions."""
    vocab: Count = Field(8192, validate_default=True)
    """Number of distinct tokens."""

    @field_validator("length")
    @classmethod
    def _even(cls, length: int) -> int:
        if length % 2:
            raise ValueError(f"expected an even number of tokens, got {length}")
        return length

    @field_validator("pairs")
    @classmethod
    def _pairs_fit(cls, pairs: int, info: ValidationInfo) -> int:
        length = info.data.get("length", 4 * pairs)
        if 4 * pairs > length:
            raise ValueError(
                f"expected at most length / 4 = {length // 4} pairs in {length} tokens, got {pairs}"
            )
        return pairs

    @field_validator("evaluate_at", "train_at")
    @classmethod
    def _further(cls, given: tuple[tuple[int, ...], ...], info: ValidationInfo) -> Any:
        shapes = [(row[0], row[1]) for row in given]
        for length, pairs in shapes:
            if length % 2 or 4 * pairs > length:
                raise ValueError(
                    f"expected even lengths of at least 4 * pairs, got {[length, pairs]}"
                )
        known = [(info.data.get("length"), info.data.get("pairs")), *shapes]
        if len(set(known)) < len(known):
            raise ValueError(
                "expected each [length, pairs] once, and not those of validation and test, "
                f"{[info.data.get('length'), info.data.get('pairs')]}"
            )
        return given

    @field_validator("vocab")
    @classmethod
    def _room(cls, vocab: int, info: ValidationInfo) -> int:
        given = info.data
        needed = {"length", "pairs", "train_examples", "eval_examples", "evaluate_at", "train_at"}
        if not needed <= set(given):
            return vocab
        further = [*given["evaluate_at"], *given["train_at"]]
        wanted = {given["pairs"]: given["train_examples"] + 2 * given["eval_examples"]}
        for _, pairs, *told in further:
            examples = told[0] if told else given["eval_examples"]
            wanted[pairs] = wanted.get(pairs, 0) + examples
        for pairs, examples in wanted.items():
            ways = perm(vocab // 2 - 1, pairs) * perm(vocab - vocab // 2, pairs)
            if ways < _ROOM * examples:
                raise ValueError(
                    f"{vocab} tokens fill {pairs} pairs in {ways} ways, and {examples} examples "
                    f"without a repeat need {_ROOM} times their number: give a larger vocab, more "
                    "pairs or fewer examples"
                )
        return vocab

    @property
    def vocabulary(self) -> int:
        return self.vocab

    @property
    def train_lengths(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys([self.length, *(length for length, _, _ in self.train_at)]))

    @property
    def evaluations(self) -> tuple[str, ...]:
        return tuple(f"{length}x{pairs}" for length, pairs in self.evaluate_at)

    @property
    def at_lengths(self) -> dict[str, int]:
        """Those with as many pairs as the test."""
        shapes = {split: self.shape(split) for split in ("test", *self.evaluations)}
        return {split: length for split, (length, pairs) in shapes.items() if pairs == self.pairs}

    def shape(self, split: str) -> tuple[int, int]:
        """Tokens and pairs of an example of a split; of "train", those of the main set."""
        self.check_split(split)
        further = dict(zip(self.evaluations, self.evaluate_at, strict=True))
        return further.get(split, (self.length, self.pairs))

    def levels(self, split: str) -> Levels:
        """Chance is any value, the plateau any value that was seen in the example."""
        _, pairs = self.shape(split)
        return Levels(chance=1 / (self.vocab - self.vocab // 2), plateau=1 / pairs, ceiling=1.0)

    def dataset(self, split: str, seed: int) -> Rows | ConcatDataset[tuple[Tensor, Tensor]]:
        self.check_split(split)
        if split == "train":
            return _train(self, seed)  # pyright: ignore[reportArgumentType]
        return _held_out(self, seed)[split]  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=4)
def _held_out(task: Mqar, seed: int) -> dict[str, Rows]:
    made: dict[str, Rows] = {}
    for split in task.splits[1:]:
        shape = (*task.shape(split), task.eval_examples)
        made[split] = _rows(task, shape, made.values(), seed, split)
    return made


@lru_cache(maxsize=2)
def _train(task: Mqar, seed: int) -> Rows | ConcatDataset[tuple[Tensor, Tensor]]:
    from torch.utils.data import ConcatDataset

    # Last, so that the held-out examples stay the same when there are more to train on.
    others = [*_held_out(task, seed).values()]  # pyright: ignore[reportArgumentType]
    sets = [_rows(task, (task.length, task.pairs, task.train_examples), others, seed, "train")]
    for shape in task.train_at:
        sets.append(_rows(task, shape, [*others, *sets], seed, "train", *shape[:2]))
    return ConcatDataset(sets) if task.train_at else sets[0]


def _rows(
    task: Mqar, shape: tuple[int, int, int], others: Iterable[Rows], seed: int, *names: object
) -> Rows:
    """Examples of a (length, pairs, examples) whose pairs are in none of the others."""
    from miras_search.data.examples import generator
    from miras_search.data.recall import ask, contexts

    length, pairs, examples = shape
    told = 2 * pairs
    alike = [rows for rows in others if int((rows.targets[0] != IGNORE).sum()) == pairs]
    random = generator("mqar", seed, *names)
    context = contexts(examples, pairs, task.vocab, [r.tokens[:, :told] for r in alike], random)
    return ask(context, length, task.vocab, task.power, task.fill == "random", random)

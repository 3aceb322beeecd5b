"""Memorization: a fixed value for each key, learned in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels
from miras_search.tasks.synthetic import Synthetic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class Memorization(Synthetic):
    """Say the value of a key, which no example tells, as in MAD.

    n = (vocab - 1) / 2 keys, rounded down, are 0 .. n - 1; each has a value of its own among
    n .. vocab - 2. An example is length / 2 pairs of any key and the sign vocab - 1, at which its
    value is asked for. With length 8 and vocab 65:

        token    25 64 28 64 11 64 26 64
        target    . 35  . 56  . 52  . 36

    Training and held-out examples have the same keys with the same values, or nothing could be
    said: what is held out are orders of keys. The values belong to the seed, so that another seed
    learns another map by heart. A key that no training example has cannot be known.
    """

    kind: ClassVar[str] = "memorization"
    equation: ClassVar[str] = "k ! -> v(k)"
    source: ClassVar[str] = "MAD 2403.17844 and its memorization generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 8,
        "vocab": 65,
        "train_examples": 50,
        "eval_examples": 50,
        "evaluate_at": [16],
    }

    length: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    vocab: Annotated[int, Field(ge=5)] = 256
    """Keys, values and the sign."""
    train_examples: Count = 256

    def problem(self, length: int) -> str | None:
        return "expected even lengths" if length % 2 else None

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def levels(self, split: str) -> Levels:
        """Chance is any value. The ceiling, derived, is the share of keys that training shows, on
        average; lucky guesses of the others add less than one key's share."""
        self.check_split(split)
        keys = (self.vocab - 1) // 2
        shown = self.train_examples * (self.length // 2)
        return Levels(chance=1 / (self.vocab - 1 - keys), ceiling=1 - (1 - 1 / keys) ** shown)

    def draw(self, split: str, count: int, seed: int, random: Generator) -> tuple[Tensor, Tensor]:
        import torch

        from miras_search.data.examples import generator
        from miras_search.tasks.base import IGNORE

        keys = (self.vocab - 1) // 2
        values = torch.randperm(
            self.vocab - 1 - keys, generator=generator(self.kind, seed, "values")
        )
        key = torch.randint(keys, (count, self.length_of(split) // 2), generator=random)
        tokens = torch.stack([key, torch.full_like(key, self.vocab - 1)], 2).flatten(1)
        targets = torch.stack([torch.full_like(key, IGNORE), keys + values[key]], 2).flatten(1)
        return tokens, targets

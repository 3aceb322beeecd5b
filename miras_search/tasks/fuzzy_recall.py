"""Fuzzy recall: in-context recall of keys and values that are several tokens long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from miras_search.registry import register
from miras_search.tasks.base import Levels
from miras_search.tasks.synthetic import Recall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor

Motif = Annotated[int, Field(ge=1, le=8)]
"""Tokens of a key, or of a value, at most."""


@register
class FuzzyRecall(Recall):
    """Say each token of the value of a key that was seen before in the example, as in MAD.

    Keys are motifs of 1 to `key_motif` different tokens of 0 .. n - 1, values motifs of 1 to
    `value_motif` different tokens of n .. vocab - 2, where n = (vocab - 1) / 2 rounded down. Each
    number of tokens is equally likely; held-out examples have keys of `key_motif` tokens only. The
    last pair, the probe, stands at a random place before as well. The last token of the vocabulary
    fills the beginning. With length 24 and vocab 10, held out:

        token    9 9 1 0 3 5 8 2 0 1 4 7 6 0 2 3 6 8 2 0 1 4 7 6
        target   . . . . . . . . . . . . . . . . . . . . 4 7 6 .

    In the paper's library a few probes stand nowhere before. With `train_on: all` training asks for
    every next token, as it does there.
    """

    kind: ClassVar[str] = "fuzzy_recall"
    equation: ClassVar[str] = "k1 v1 ... ki vi ... ki -> vi, k and v several tokens each"
    source: ClassVar[str] = "MAD 2403.17844 and its fuzzy-in-context-recall generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 24,
        "vocab": 10,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [18, 40],
    }

    length: Annotated[int, Field(ge=6)] = 128
    key_motif: Motif = 3
    """Tokens of a key at most; of a held-out key always."""
    value_motif: Motif = 3
    """Tokens of a value at most."""
    vocab: Annotated[int, Field(ge=3)] = Field(16, validate_default=True)
    """Key tokens, value tokens and the one that fills."""

    @field_validator("vocab")
    @classmethod
    def _room(cls, vocab: int, info: ValidationInfo) -> int:
        longest = max(info.data.get("key_motif", 1), info.data.get("value_motif", 1))
        if (vocab - 1) // 2 < longest:
            raise ValueError(
                f"expected at least {2 * longest + 1} for motifs of {longest} different tokens, "
                f"got {vocab}"
            )
        return vocab

    def problem(self, length: int) -> str | None:
        least = 3 * (self.key_motif + self.value_motif)
        return f"expected at least {least} tokens for three pairs" if length < least else None

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def _parts(self) -> tuple[int, int]:
        """How many tokens are of keys, and how many of values."""
        return (self.vocab - 1) // 2, self.vocab // 2

    def levels(self, split: str) -> Levels:
        """Chance is any token of values. Where half-learned models stay is not known."""
        self.check_split(split)
        return Levels(chance=1 / self._parts()[1], ceiling=1.0)

    def sequences(self, split: str, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        from miras_search.data.pairs import fuzzy

        shortest_key = 1 if split == "train" else self.key_motif
        return fuzzy(
            count,
            self.length_of(split),
            self._parts(),
            tuple(range(shortest_key, self.key_motif + 1)),
            tuple(range(1, self.value_motif + 1)),
            random,
        )

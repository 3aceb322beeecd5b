"""Noisy recall: in-context recall among tokens that mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels
from miras_search.tasks.odds import value_of_any_key
from miras_search.tasks.synthetic import Recall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


@register
class NoisyRecall(Recall):
    """In-context recall in which some pairs are replaced by two tokens of noise, as in MAD.

    The last `noise_vocab` tokens are noise; of the others the first half are keys, the second half
    values. A pair is noise with odds `noise`, but for one at random and the last. With length 16,
    vocab 12, noise_vocab 4 and noise 0.4:

        token     3  4  9  8  2  4  2  4  3  4  0  7 10 11  2  4
        target    .  .  .  .  .  .  4  .  4  .  .  .  .  .  4  .

    With `train_on: all` training asks for every next token, as in the paper's library.
    """

    kind: ClassVar[str] = "noisy_recall"
    equation: ClassVar[str] = "k1 v1 x x ... ki vi x x ... ki -> vi"
    source: ClassVar[str] = "MAD 2403.17844 and its noisy-in-context-recall generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 16,
        "vocab": 12,
        "noise": 0.4,
        "noise_vocab": 4,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [8, 32],
    }

    length: Annotated[int, Field(ge=4, multiple_of=2)] = 128
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of pairs that are noise."""
    noise_vocab: Count = 16
    """Tokens of noise."""
    vocab: Annotated[int, Field(ge=5)] = Field(32, validate_default=True)
    """Keys, values and noise together."""

    @field_validator("vocab")
    @classmethod
    def _room(cls, vocab: int, info: ValidationInfo) -> int:
        noise = info.data.get("noise_vocab", 0)
        if vocab < noise + 4:
            raise ValueError(
                f"expected at least noise_vocab + 4 = {noise + 4} for two keys and two values, "
                f"got {vocab}"
            )
        return vocab

    @property
    def vocabulary(self) -> int:
        return self.vocab

    def _parts(self) -> tuple[int, int]:
        """How many tokens are keys, and how many are values."""
        both = self.vocab - self.noise_vocab
        return both // 2, both - both // 2

    def levels(self, split: str) -> Levels:
        """Chance is any value. The plateau is the value that most keys seen have; it is derived."""
        keys, values = self._parts()
        plateau = value_of_any_key(self.length_of(split) // 2, keys, values, self.noise)
        return Levels(chance=1 / values, plateau=plateau, ceiling=1.0)

    def sequences(self, split: str, count: int, random: Generator) -> tuple[Tensor, Tensor]:
        from miras_search.data.pairs import single

        pairs = self.length_of(split) // 2
        return single(count, pairs, *self._parts(), self.noise, self.noise_vocab, random)

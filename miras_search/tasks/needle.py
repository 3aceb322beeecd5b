"""A needle in a haystack: one sentence of a long text is asked for at its end."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field, model_validator

from miras_search.registry import register
from miras_search.tasks.base import Levels
from miras_search.tasks.haystack import Haystack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FIRST = """
    able big blue bold brave brief bright broad busy calm cheap clean clear close cold cool dark
    deep dry dull dusty eager early easy even fair famous fast fine firm flat fond fresh full
    gentle glad good grand great green grey happy hard heavy high hot huge idle keen kind large
    late lazy light long loud lucky new nice old open pale proud quick"""
_SECOND = """
    apple arm army art bag ball band bank bird boat body bone book box bread bridge bus cake camp
    car card cat chair city clock cloud coat coin corn cow cup desk dog door dress drum ear farm
    field fish flag foot fork gate glass goat gold hand hat hill horse house island key king lake
    lamp leaf lion map moon nest ocean pen"""
_ADJECTIVES, _NOUNS = _FIRST.split(), _SECOND.split()
_LONGEST = f"{max(_ADJECTIVES, key=len)}-{max(_NOUNS, key=len)}"

_STEP = 24
"""Bytes between two depths of a grid at least: more than the longest sentence of noise, so that
no two are the same place."""


@register
class Needle(Haystack):
    """Repeat the value that a text gave for a key, as in RULER's needle-in-a-haystack tasks.

    Byte 0 of an example of length 192, form "passkey" and 4 digits is the first here, and the last
    four, the value, are scored:

        . The sun is yellow. Here we go. There and back again. One of the special magic numbers
        for clear-fish is: 8411. The special magic number for clear-fish mentioned in the
        provided text is: 8411

    | form | haystack | value | RULER | Titans |
    | --- | --- | --- | --- | --- |
    | passkey | five sentences, repeated | number | niah_single_1 | PK |
    | number | running text | number | niah_single_2 | N |
    | uuid | running text | UUID | niah_single_3 | W |

    That the W of Titans is single_3 is inferred: Titans does not say so. With more keys (RULER's
    niah_multikey_1 has 4) the other needles are the same sentence with other keys and values.

    In running text the needle is at one of `depths` equal steps from the beginning to the end of
    the haystack, drawn at random, at the first word that begins there or after; the others are at
    other steps. In repeated sentences each is at the first sentence that begins at or after
    a share of the haystack drawn at random.

    Where it differs from RULER: depth is counted in bytes, not sentences, and a needle stands
    between two words; of noise one of the five sentences is a unit, not all five; keys are drawn
    from 64 adjectives and 64 nouns, all short, not thousands; and the instruction before the text
    and the first half of the question are left out.

    No key and no value is in two of training, validation, test, the further evaluations and the
    grid.
    """

    kind: ClassVar[str] = "needle"
    equation: ClassVar[str] = "text .. k v .. text k -> v"
    source: ClassVar[str] = "RULER 2404.06654, section 3 and its niah generator"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 320,
        "digits": 3,
        "keys": 2,
        "depths": 3,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [400],
        "further_examples": 20,
        "grid": True,
    }

    form: Literal["passkey", "number", "uuid"] = "number"
    """What the haystack is (`files` is not used by passkey), and what the value."""
    digits: Annotated[int, Field(ge=3, le=18)] = 7
    """Of a number; a UUID has 32 hexadecimal ones."""
    keys: Annotated[int, Field(ge=1, le=64)] = 1
    """Needles, one of which is asked for."""
    depths: Annotated[int, Field(ge=2, le=101)] = 40
    """Equal steps of depth, the first 0 and the last 1."""
    grid: bool = False
    """Whether there is also an evaluation at each depth of every length, named like "4096@0.50"."""

    @model_validator(mode="after")
    def _steps_for_all(self) -> Needle:
        if self.keys > self.depths:
            raise ValueError(f"{self.keys} keys need as many depths: expected at least {self.keys}")
        return self

    @property
    def least(self) -> int:
        """What stands beside the haystack, and a step of it or all of the grid."""
        value = self._value(Random(0))
        needles = self.keys * (len(self._needle(_LONGEST, value)) + 1)
        steps = self.depths if self.grid else 1
        return needles + len(self._question(_LONGEST)) + len(value) + _STEP * steps

    @property
    def uses_files(self) -> bool:
        return self.form != "passkey"

    @property
    def evaluations(self) -> tuple[str, ...]:
        return (*super().evaluations, *self._cells)

    def length_of(self, split: str) -> int:
        length, at, _ = split.partition("@")
        self.check_split(split)
        return int(length) if at else super().length_of(split)

    @property
    def _cells(self) -> dict[str, float]:
        """The depth of each evaluation of the grid."""
        lengths = (self.length, *self.evaluate_at) if self.grid else ()
        return {f"{length}@{depth:.2f}": depth for length in lengths for depth in self._depths}

    @property
    def _depths(self) -> list[float]:
        return [i / (self.depths - 1) for i in range(self.depths)]

    def part(self, split: str) -> str:
        return "grid" if "@" in split else super().part(split)

    def levels(self, split: str) -> Levels:
        """Chance is any value; the plateau, with several keys, any value of the example."""
        self.check_split(split)
        values = 2**122 if self.form == "uuid" else 9 * 10 ** (self.digits - 1)
        plateau = None if self.keys == 1 else 1 / self.keys
        return Levels(chance=1 / values, plateau=plateau, ceiling=1.0)

    def write(self, split: str, seed: int | None, text: bytes, index: int) -> tuple[bytes, bytes]:
        from miras_search.data.haystack import after, excerpt, hide, home, noise

        random, part = Random(f"needle/{split}/{seed}/{index}"), self.part(split)

        def new(draw: Callable[[Random], str]) -> str:
            while home((content := draw(random)).encode()) != part:
                pass
            return content

        values: dict[str, str] = {}
        while len(values) < self.keys:
            values[new(_key)] = new(self._value)
        asked = next(iter(values))
        question, answer = self._question(asked).encode(), values[asked].encode()
        needles = [self._needle(key, value).encode() for key, value in values.items()]
        rest = sum(len(needle) + 1 for needle in needles) + len(question) + len(answer)
        depths = self._depths
        if self.uses_files:
            own = self._cells[split] if "@" in split else random.choice(depths)
            haystack, ending = excerpt(text, self.length_of(split) - rest, random), b" "
            depths.remove(own)
            shares = [own, *random.sample(depths, self.keys - 1)]
        else:
            haystack, ending = noise(self.length_of(split) - rest), b". "
            shares = [random.random() for _ in needles]
            if "@" in split:
                shares[0] = self._cells[split]
        places = [after(haystack, share, ending) for share in shares]
        return hide(haystack, needles, places) + question, answer

    def _value(self, random: Random) -> str:
        if self.form == "uuid":
            return str(UUID(int=random.getrandbits(128), version=4))
        return str(random.randrange(10 ** (self.digits - 1), 10**self.digits))

    def _needle(self, key: str, value: str) -> str:
        return f"One of the special magic {self._what}s for {key} is: {value}."

    def _question(self, key: str) -> str:
        return f"The special magic {self._what} for {key} mentioned in the provided text is: "

    @property
    def _what(self) -> str:
        return "uuid" if self.form == "uuid" else "number"


def _key(random: Random) -> str:
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_NOUNS)}"

"""Texts of an exact length in which something is hidden (see `tasks/needle.py`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.data import Dataset

from miras_search.data.text import matching, split_files, standard_library
from miras_search.tasks.base import IGNORE

_NOISE = (
    b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
"""What RULER repeats."""

_MOST = 4_000_000
"""Bytes of running text used at most."""

_HELD_OUT = ("validation", "test", "further", "grid")
_HOMES = 16
"""Of so many contents one is in each held-out part, the others are for training."""


class Answers(Dataset[tuple[Tensor, Tensor]]):
    """Texts that end with an answer, written when they are asked for; the answer is scored.

    A token is a byte. Nothing is kept, so a set of long examples takes the memory of one.

    Args:
        numbers: what names each example.
        write: gives the text before the answer, of a byte at least, and the answer of a number.
    """

    def __init__(self, numbers: range, write: Callable[[int], tuple[bytes, bytes]]) -> None:
        self.numbers = numbers
        self.write = write

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        text, answer = self.write(self.numbers[index])
        tokens = torch.frombuffer(bytearray(text + answer), dtype=torch.uint8).long()
        targets = torch.full_like(tokens, IGNORE)
        targets[len(text) - 1 : -1] = tokens[len(text) :]
        return tokens, targets


def home(content: bytes) -> str:
    """The one part that may have a content, whatever the seed.

    "train" for three quarters of all; "validation", "test", "further" or "grid" for a sixteenth
    each.
    """
    number = hashlib.blake2b(content, digest_size=1).digest()[0] % _HOMES
    return _HELD_OUT[number] if number < len(_HELD_OUT) else "train"


def noise(length: int) -> bytes:
    """The last `length` bytes of a few sentences repeated without end."""
    return (_NOISE * (length // len(_NOISE) + 1))[-length:]


def running_text(files: str | None) -> dict[str, bytes]:
    """Words with a space after each, for "train", "validation" and "test": files are split.

    Args:
        files: a glob; None is the documentation in the standard library.

    Raises:
        InvalidValues: the files cannot be had.
    """
    # Found anew each time: the current folder and what is in it may change.
    if files is None:
        return _joined(tuple(standard_library()), documentation)
    return _joined(tuple(matching(files)), words)


def words(content: bytes) -> bytes:
    """A text with a single space between words."""
    return b" ".join(content.split())


def documentation(source: bytes) -> bytes:
    """The words between triple quotes of a Python source.

    Strings with a backslash are left out: most are code or data.
    """
    strings = re.findall(rb'"""(.*?)"""', source, re.DOTALL)
    return words(b" ".join(string for string in strings if b"\\" not in string))


@lru_cache(maxsize=4)
def _joined(paths: tuple[Path, ...], read: Callable[[bytes], bytes]) -> dict[str, bytes]:
    files = split_files(paths, 1, _MOST, read)
    return {name: b" ".join([*contents, b""]) for name, contents in files.items()}


def excerpt(text: bytes, length: int, random: Random) -> bytes:
    """`length` bytes of a text that repeats without end; they begin anywhere and end a word."""
    end = text.index(b" ", random.randrange(len(text))) + 1
    rounds = max(0, -(-(length - end) // len(text)))
    return (text * rounds + text[:end])[-length:] if rounds else text[end - length : end]


def after(haystack: bytes, share: float, ending: bytes) -> int:
    """The first place at or after a share of the haystack, 0 to 1, where `ending` ends.

    The haystack itself ends so.
    """
    start = round(share * (len(haystack) - len(ending)))
    return haystack.index(ending, start) + len(ending)


def hide(haystack: bytes, facts: Sequence[bytes], places: Sequence[int]) -> bytes:
    """The haystack with each fact, and a space after it, put in at its place (an index).

    Facts at one place keep their order.
    """
    pieces, last = [], 0
    for place, fact in sorted(zip(places, facts, strict=True), key=lambda pair: pair[0]):
        pieces += [haystack[last:place], fact, b" "]
        last = place
    return b"".join([*pieces, haystack[last:]])

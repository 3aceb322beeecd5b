"""Text to tokens and back: bytes, or a tokenizer of the `tokenizers` package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search.errors import InvalidValues

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Codec:
    """How a text is told in tokens 0 .. size - 1."""

    size: int
    """Number of tokens; the next number is free, for what separates texts."""
    encode: Callable[[list[str]], list[list[int]]]
    """The tokens of each of some texts, with nothing added."""
    decode: Callable[[list[int]], str]
    """The text of some tokens; what is no text, such as half a character, becomes U+FFFD."""
    to_json: Callable[[], str] | None = None
    """What a tokenizer.json has; None for bytes."""


BYTES = Codec(
    size=256,
    encode=lambda texts: [[*text.encode()] for text in texts],
    decode=lambda tokens: bytes(tokens).decode(errors="replace"),
)
"""One token for each byte of UTF-8."""


def codec(tokenizer: str | None) -> Codec:
    """The codec of a tokenizer: a file like tokenizer.json, a name on the Hugging Face hub, or null
    for bytes.

    Raises:
        InvalidValues: it cannot be had, of the field "tokenizer".
    """
    if tokenizer is None:
        return BYTES
    file = Path(os.path.expanduser(tokenizer))  # an unknown user stays as it is
    if file.is_file():
        return _codec(str(file.absolute()), file.stat().st_mtime_ns)
    if file.suffix == ".json":
        raise unusable("tokenizer", f"there is no file '{file.absolute()}'")
    return _codec(tokenizer, None)


@lru_cache(maxsize=4)
def _codec(tokenizer: str, changed: int | None) -> Codec:
    """A codec of a file as it was changed last, or else of the hub."""
    cls = needed("tokenizers", "tokenizer").Tokenizer
    try:
        found = cls.from_pretrained(tokenizer) if changed is None else cls.from_file(tokenizer)
    except Exception as error:  # the package raises no narrower one
        raise unusable("tokenizer", f"cannot read '{tokenizer}': {first_line(error)}") from None
    found.no_truncation()
    found.no_padding()
    return Codec(
        size=1 + max(found.get_vocab().values()),
        encode=lambda texts: [
            told.ids for told in found.encode_batch_fast(texts, add_special_tokens=False)
        ],
        decode=lambda tokens: found.decode(tokens, skip_special_tokens=False),
        to_json=found.to_str,
    )


def needed(package: str, field: str) -> Any:
    """A package of the extra "data".

    Raises:
        InvalidValues: it is not installed, of the field that needs it.
    """
    try:
        return import_module(package)
    except ImportError:
        told = f"needs the package {package}: pip install 'miras-search[data]'"
        raise unusable(field, told) from None


def unusable(field: str, *problems: str) -> InvalidValues:
    """What is wrong with what a field of a task names."""
    return InvalidValues([((field,), problem) for problem in problems])


def first_line(error: Exception) -> str:
    """What an error says, cut to a line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

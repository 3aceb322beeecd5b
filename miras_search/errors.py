"""The one exception whose text is meant for the person at the keyboard."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Path = tuple[str | int, ...]
"""Where in a nested mapping something stands: keys and list positions."""


class UserError(ValueError):
    """Something the user wrote cannot be done: what, where, and what was expected.

    Each problem is one line. The command line prints them and exits with code 2.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = [problems] if isinstance(problems, str) else problems
        self.problems = [printable(problem) for problem in given]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[list[str]]]:
        return (type(self), (self.problems,))


class InvalidValues(UserError):
    """Problems found in plain data, each with the place it was found at.

    Whoever read the data from a file turns the places into lines (see `yaml_file`).
    """

    def __init__(self, found: Iterable[tuple[Path, str]]) -> None:
        self.found = list(found)
        super().__init__(f"{dotted(path)}: {text}" if path else text for path, text in self.found)

    def __reduce__(self) -> tuple[type[UserError], tuple[list[tuple[Path, str]]]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (type(self), (self.found,))


def printable(text: str) -> str:
    """One line: what a file says must not move the cursor of the terminal that shows it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def dotted(path: Path) -> str:
    """("memory", 1, "depth") as memory[1].depth."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, or lists them all."""
    words = sorted(known)
    close = get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "expected one of: " + ", ".join(words)

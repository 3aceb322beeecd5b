"""Numbers and words of the reports: the same in the terminal and in HTML."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from miras_search.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord
    from miras_search.stats.ranks import Correlation
    from miras_search.stats.seeds import Chance
    from miras_search.tasks.base import Levels

NONE = "-"
"""What stands where there is no number."""
ORDER = (
    "memory | bias | retention | algorithm | what differs from the defaults; - means nothing there"
)
"""What the parts of a variant's name are."""


def score(value: float | None) -> str:
    """Four decimals, so that a column lines up."""
    return NONE if value is None else f"{value:.4f}"


def rate(value: float) -> str:
    """A learning rate, to three digits."""
    return f"{value:.3g}"


def count(value: int | None) -> str:
    """A whole number with separators."""
    return NONE if value is None else f"{value:,}"


def many(number: int, thing: str) -> str:
    """How many there are of something, such as "1 trial" and "1,200 trials"."""
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"


def short_count(value: int | None) -> str:
    """A whole number to three digits or so, such as 118k."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value is not None and value >= unit:
            whole = len(str(value // unit))
            return f"{value / unit:.{max(0, 3 - whole)}f}{name}"
    return count(value)


def memory(value: int | None) -> str:
    """Bytes in binary units."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value is not None and value >= unit:
            return f"{value / unit:.1f} {name}"
    return NONE if value is None else f"{value} B"


def share(value: float | None) -> str:
    """A signed deviation in percent."""
    return NONE if value is None else f"{value:+.2%}"


def percent(value: float) -> str:
    """A share in whole percent, to a tenth where it is small."""
    return f"{value:.1%}" if 0 < value < 0.0995 else f"{value:.0%}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bound(label: object) -> str:
    """A variant whose bars stay at the ends of lines when it is wrapped."""
    return str(label).replace(" |", "\xa0|")


def wrapped(label: str, width: int) -> str:
    """A variant on lines of at most `width`, words permitting."""
    lines = textwrap.wrap(bound(label), width, break_on_hyphens=False, break_long_words=False)
    # A word that is too long for its line with a bar gives up the space before it.
    lines = [line if len(line) <= width else line.replace("\xa0", "") for line in lines]
    return "\n".join(lines).replace("\xa0", " ")


def held_out(split: str) -> str:
    """A held-out set in words: one that is named by a number is of examples of so many tokens."""
    return f"{split} tokens" if split.isdecimal() else split


def better(recipe: Recipe) -> str:
    """Which scores are better, in words."""
    return "higher is better" if recipe.task.direction == "maximize" else "lower is better"


def known_levels(levels: Levels) -> dict[str, float]:
    """Chance, plateau and ceiling, as far as they are known."""
    named = {"chance": levels.chance, "plateau": levels.plateau, "ceiling": levels.ceiling}
    return {name: level for name, level in named.items() if level is not None}


def levels(found: Levels) -> str:
    """The levels in one line."""
    known = known_levels(found)
    if not known:
        return "chance, plateau and ceiling unknown"
    missing = [name for name in ("chance", "plateau", "ceiling") if name not in known]
    told = [f"{name} {level:.4g}" for name, level in known.items()]
    return ", ".join(told + [f"{name} unknown" for name in missing])


def reason(record: TrialRecord) -> str:
    """Why a trial did not complete, on one line."""
    return printable(record.reason or "no reason was recorded")


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def few(numbers: Sequence[int]) -> str:
    """The first of some numbers, and how many more there are."""
    told = ", ".join(map(str, numbers[:12]))
    return told + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def chance(found: Chance | Correlation) -> str:
    """A probability or a correlation, and its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def interval(margin: float | None) -> str:
    """Half the width of an interval, or that none can be told."""
    return "all alike" if margin is None else f"\u00b1 {score(margin)}"

"""Trials without a score, by how and why they ended."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miras_search.report import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miras_search.record import TrialRecord

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Failure:
    """Trials that ended alike: in one state, for reasons that differ in nothing but numbers."""

    state: str
    reason: str
    """Numbers in which they differ as the least and the largest."""
    numbers: tuple[int, ...]
    """Of the trials."""


def failures(records: Sequence[TrialRecord]) -> list[Failure]:
    """All of them, most frequent first."""
    alike: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for record in records:
        if record.score is None:
            reason = text.reason(record)
            alike[record.state, *NUMBER.split(reason)][record.number] = reason
    found = [
        Failure(state, _joined(words, [*reasons.values()]), tuple(reasons))
        for (state, *words), reasons in alike.items()
    ]
    return sorted(found, key=lambda failure: -len(failure.numbers))


def _joined(words: Sequence[str], reasons: Sequence[str]) -> str:
    """Reasons that have the same words around their numbers, as one."""
    told = words[0]
    columns = zip(*map(NUMBER.findall, reasons), strict=True)
    for numbers, following in zip(columns, words[1:], strict=True):
        distinct = sorted({*numbers}, key=float)
        told += " to ".join(dict.fromkeys((distinct[0], distinct[-1]))) + following
    return told

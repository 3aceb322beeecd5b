"""Times of several calls, taken in turn so that a machine whose speed drifts treats all alike."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Row:
    """One comparison: how many times `name` is better than `peer` (faster, or smaller)."""

    name: str
    peer: str
    ratio: float
    """Median over rounds."""
    minimum: float
    maximum: float
    seconds: float | None = None
    """Median time of one call of `name`: of this machine, on this day."""

    def __str__(self) -> str:
        spread = f"{self.minimum:.2f} to {self.maximum:.2f}"
        told = "" if self.seconds is None else f"{1e3 * self.seconds:10.1f} ms"
        return f"{self.name:<44} / {self.peer:<28} {self.ratio:8.2f}  ({spread}) {told}"

    def plain(self) -> dict[str, object]:
        """The row of bench.json."""
        return asdict(self)


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - began)
    return times


def compare(name: str, peer: str, times: Mapping[str, list[float]]) -> Row:
    """How many times faster `name` is, round by round."""
    ratios = [b / a for a, b in zip(times[name], times[peer], strict=True)]
    return row(name, peer, ratios, statistics.median(times[name]))


def row(name: str, peer: str, ratios: list[float], seconds: float | None = None) -> Row:
    """The median and the spread of ratios."""
    return Row(name, peer, statistics.median(ratios), min(ratios), max(ratios), seconds)

"""Why a process of a trial died: the system ran out of memory, somebody killed it, or it failed."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miras_search.record import Ending

_COUNTERS = Path("/proc/vmstat")
"""Where Linux counts what it does, for the whole machine."""


def killed_for_memory() -> int | None:
    """How many processes the kernel has killed for want of memory; None where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _COUNTERS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def died(who: str, code: int, before: int | None) -> tuple[Ending, str]:
    """The state of a trial whose process ended with a code, and the reason.

    `before` is what `killed_for_memory` said when the trial began.
    """
    if code != -signal.SIGKILL:
        return "failed", f"{who} died with exit code {code}"
    if before is None:
        return "out of memory", f"{who} was killed, as the system does when memory runs out"
    if killed_for_memory() == before:
        return "failed", f"{who} was killed (signal 9), and not because memory ran out"
    return "out of memory", f"{who} was killed when the memory of the machine ran out"

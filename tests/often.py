"""Parameters of which only some are tested every time."""

from collections.abc import Iterable
from typing import Any

import pytest


def often(quick: Iterable[Any], every: Iterable[Any] = ()) -> list[Any]:
    """The quick ones, then the rest of all, behind the marker `slow`."""
    chosen = dict.fromkeys(quick)
    return [*chosen, *(pytest.param(x, marks=pytest.mark.slow) for x in every if x not in chosen)]

"""No gate: nothing is forgotten but by being overwritten."""

from __future__ import annotations

from typing import ClassVar

from miras_search.registry import register
from miras_search.retention.base import Retention


@register
class NoRetention(Retention):
    """Keep everything: the memory changes by its writes alone."""

    kind: ClassVar[str] = "none"
    equation: ClassVar[str] = "a_t = 1"
    source: ClassVar[str] = "Katharopoulos et al. 2006.16236"
    keeps_everything: ClassVar[bool] = True
    kept: ClassVar[str] = "W_{t-1}"

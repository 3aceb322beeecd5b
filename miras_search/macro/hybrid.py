"""Memories between layers of sliding-window attention, as in Samba."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from miras_search.macro.base import Macro
from miras_search.registry import register

if TYPE_CHECKING:
    from miras_search.variant import Variant


@register
class Hybrid(Macro):
    """`pattern` says what each layer is, M the memory and A attention over the last `window`
    tokens, and is repeated over the depth of the model.

    A layer of attention has the heads and the convolution of the memory's.
    """

    kind: ClassVar[str] = "hybrid"
    equation: ClassVar[str] = "x + M(x) or x + A(x), in turn"
    source: ClassVar[str] = "Samba 2406.07522; MIRAS 2504.13173, section 5.3 (-H)"

    pattern: str = "MA"
    window: Annotated[int, Field(ge=1, le=2**20)] = 64
    """Tokens that attention sees, the last one among them."""

    @field_validator("pattern")
    @classmethod
    def _names_memory(cls, pattern: str) -> str:
        if "M" not in pattern or not set(pattern) <= {"M", "A"}:
            raise ValueError(f"expected letters M and A, at least one of them M, got '{pattern}'")
        return pattern

    @property
    def formula(self) -> str:
        return f"layers {self.pattern} in turn, A over the last {self.window} tokens"

    @property
    def depth(self) -> int:
        return len(self.pattern)

    def layers(self, variant: Variant, count: int) -> tuple[Variant, ...]:
        from miras_search.macro.lmm import Lmm
        from miras_search.memory.sliding_window import SlidingWindow
        from miras_search.variant import Variant

        memory = variant.replace(macro=Lmm())
        attention = Variant.from_dict(
            {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
        ).replace(memory=SlidingWindow(window=self.window), heads=variant.heads, conv=variant.conv)
        layer = {"M": memory, "A": attention}
        return tuple(layer[name] for name in islice(cycle(self.pattern), count))

"""What every choice of the design space is: a frozen, validated record of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Source = Literal["data", "learned"]
"""Where a coefficient comes from: projected from each token, or one learned constant."""

Unit = Source | Annotated[float, Field(ge=0, le=1)]
"""A source, or a fixed number between 0 and 1."""

Share = Source | Annotated[float, Field(ge=0, lt=1)]
"""A source, or a fixed number from 0 to below 1."""

Positive = Source | Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A source, or a fixed positive number."""

Per = Literal["head", "channel"]
"""One number for each head, or one for each output channel of what it acts on."""

Side = Literal["head", "channel", "input"]
"""As `Per`, or one number for each input channel (column) of a memory matrix."""


class Component(BaseModel):
    """A choice on one axis: hyperparameters and pure maths, no trainable parameters.

    Subclasses are immutable and hashable. Their fields are the YAML keys below `kind`.
    Facts about a choice are class variables; code outside asks facts, never kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    axis: ClassVar[str]
    """Name of the axis, set by the base class of the axis."""
    kind: ClassVar[str]
    """Name in YAML; equal to the name of the file that defines it."""
    equation: ClassVar[str]
    """The defining equation, in plain text."""
    source: ClassVar[str]
    """Paper and equation number."""

    @property
    def formula(self) -> str:
        """The equation for these settings; that of the kind unless a subclass knows better."""
        return self.equation

    @property
    def steep(self) -> str | None:
        """Why no step is stable for values of every size, in a clause; None if one is."""
        return None

    @property
    def fragile(self) -> str | None:
        """Why numbers may overflow though every write is bounded, in a clause; None if not."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The kind and every field, as plain values: what `Variant.from_dict` reads."""
        return {"kind": self.kind, **self.model_dump()}

    def to_yaml_value(self) -> Any:
        """The shortest YAML that gives this component: only fields that differ from defaults."""
        changed = self.model_dump(exclude_defaults=True)
        return {"kind": self.kind, **changed} if changed else self.kind

    def __str__(self) -> str:
        changed = self.model_dump(exclude_defaults=True)
        inside = ", ".join(f"{name}={_short(value)}" for name, value in changed.items())
        return f"{self.kind}({inside})" if inside else self.kind


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A number per token that a component wants from outside, in natural units.

    `low`..`high` is the open interval the learned or projected value stays in, `initial` its
    value before training. With `acts_on="weights"` a per-channel coefficient has one entry
    for each row (output channel) of each memory matrix and a per-input one for each column, with
    `"output"` one for each value channel.
    """

    name: str
    source: Source | float
    low: float
    high: float
    initial: float
    per: Side = "head"
    acts_on: Literal["weights", "output"] = "weights"
    neutral: float | None = None
    """The value at which a retention gate changes nothing."""
    beside: tuple[str, ...] = ()
    """Other coefficients c of the same algorithm: the interval ends at `high` times each 1 - c."""
    above: str | None = None
    """Another coefficient of the same algorithm: the interval begins there, not at `low`."""

    def among(self, value: Any, other: Callable[[str], Any]) -> Any:
        """A value of the interval `low`..`high`, moved into what other coefficients, given by name,
        leave of it."""
        if self.above is not None:
            low = other(self.above)
            value = low + (self.high - low) * (value - self.low) / (self.high - self.low)
        return reduce(lambda x, name: x * (1 - other(name)), self.beside, value)

    @property
    def fixed(self) -> bool:
        """Whether the variant itself gives the value, so that no gate is read for it."""
        return not isinstance(self.source, str)

"""How large a model is: said outright, or by what every variant shall have alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, Field, model_validator

WIDTHS = (4, 2**16)
"""The narrowest and the widest residual stream."""
MOST_MLP = 64
"""Of `Size.mlp`."""


class Size(BaseModel, frozen=True, extra="forbid", strict=True):
    """The backbone around the memory."""

    width: Annotated[int, Field(ge=WIDTHS[0], le=WIDTHS[1])] = 64
    """Channels of the residual stream."""
    layers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Blocks, each a mixer and a SwiGLU."""
    mlp: Annotated[float, Field(ge=0, le=MOST_MLP)] = 2.0
    """Hidden width of the SwiGLU in units of `width`; 0 leaves it out."""

    @property
    def channels(self) -> int:
        """Hidden width of the SwiGLU."""
        return round(self.mlp * self.width)

    def with_width(self, width: int) -> Size:
        """Another width; the SwiGLU keeps its ratio."""
        return Size(width=width, layers=self.layers, mlp=self.mlp)

    def with_channels(self, channels: int) -> Size:
        """Another SwiGLU, with `mlp` in as few digits as tell its hidden width."""
        exact = channels / self.width
        for digits in range(1, 17):
            size = Size(width=self.width, layers=self.layers, mlp=round(exact, digits))
            if size.channels == channels:
                return size
        return Size(width=self.width, layers=self.layers, mlp=exact)


class Costs(Protocol):
    """Whatever knows what a model costs: a plan, or the record of a trial."""

    @property
    def parameters(self) -> int | None: ...
    @property
    def state_bytes(self) -> int | None: ...
    @property
    def flops_per_token(self) -> int | None: ...


def _whole(given: Any) -> Any:
    """A number that was written as 1e6."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _share(given: Any) -> Any:
    """A number that was written as 1%."""
    try:
        return float(given[:-1]) / 100 if isinstance(given, str) and given[-1:] == "%" else given
    except ValueError:
        return given


Target = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=2**40)]


class Match(BaseModel, frozen=True, extra="forbid", strict=True):
    """The budget of every variant: exactly one of three, and how near is near enough."""

    params: Target | None = None
    """Trainable parameters of the whole model."""
    state: Target | None = None
    """Bytes that one sequence of the task's length leaves in all layers, as float32."""
    flops: Target | None = None
    """Floating-point operations of the forward pass per token (matrix products only)."""
    tolerance: Annotated[float, BeforeValidator(_share), Field(ge=0, lt=1)] = 0.01
    """Largest deviation from the target, as a share of it."""

    @model_validator(mode="after")
    def _has_one_target(self) -> Match:
        if len(given := self._given) != 1:
            told = " and ".join(given) or "none of them"
            raise ValueError(f"expected exactly one of params, state and flops, got {told}")
        return self

    @property
    def _given(self) -> dict[Literal["params", "state", "flops"], int]:
        targets = {"params": self.params, "state": self.state, "flops": self.flops}
        return {name: target for name, target in targets.items() if target is not None}  # pyright: ignore[reportReturnType]

    @property
    def quantity(self) -> Literal["params", "state", "flops"]:
        """Which of the three is given."""
        return next(iter(self._given))

    @property
    def target(self) -> int:
        """What every variant shall have of it."""
        return self._given[self.quantity]

    @property
    def unit(self) -> str:
        """The quantity in words, behind a number."""
        words = {"params": "parameters", "state": "bytes of state", "flops": "FLOPs a token"}
        return words[self.quantity]

    def deviation(self, value: int) -> float:
        """Of a value from the target, as a share of it; negative below."""
        return (value - self.target) / self.target

    def deviation_of(self, costs: Costs) -> float | None:
        """Of what a model has of the quantity; None where that is not known."""
        match self.quantity:
            case "params":
                value = costs.parameters
            case "state":
                value = costs.state_bytes
            case "flops":
                value = costs.flops_per_token
        return None if value is None else self.deviation(value)

    def __str__(self) -> str:
        return f"{self.target:,} {self.unit} within {100 * self.tolerance:g}%"

"""What a memory algorithm is: how the gradients of the inner loss move the tensors it carries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from miras_search.component import Coefficient, Component, Positive, Side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
else:
    Tensor = object


def stable_step(chunk: int) -> float:
    """The largest step a gate may project by default.

    On unit keys one token is stored exactly at step 1 and the delta rule is stable below 2.
    Gradients taken at the start of a chunk add up: C equal keys are stable below 2 / C.
    """
    return min(1.0, 2.0 / chunk)


class Sum(NamedTuple):
    """One token's update of a running sum, Z_t = carry Z_{t-1} + inject x_t."""

    carry: Tensor | float
    inject: Tensor | float
    of: Literal["gradient", "square", "input"] = "gradient"
    """x_t: the gradient, its entries squared, or h^T h of what entered the matrix."""

    def after(self, past: Tensor, gradient: Tensor, h: Tensor) -> Tensor:
        """The sum after one token; gradient `[..., out, in]` and h `[..., 1, in]`."""
        match self.of:
            case "gradient":
                x = gradient
            case "square":
                x = gradient.square()
            case "input":
                x = h.mT @ h
        return self.carry * past + self.inject * x


@dataclass(frozen=True)
class Transition:
    """One token's update of the n tensors a linear algorithm carries, slot 0 being the state.

    `Z_t[i] = sum_j carry[i][j] Z_{t-1}[j] - inject[i] step_t grad_t`. Entries are numbers or
    tensors that broadcast to `[..., out, in]`; None carries nothing. No other slot may look at the
    state: `carry[i][0]` is None for i > 0.
    """

    carry: tuple[tuple[Tensor | float | None, ...], ...]
    inject: tuple[Tensor | float, ...]


class Algorithm(Component):
    """The inner optimiser.

    A `linear` algorithm is its `transition`, which the token loop applies, and which the chunked
    form multiplies out into causal coefficients. Any other keeps `sums` and moves the state along a
    `direction`. `advance` puts either together: one definition serves every lowering.
    """

    axis: ClassVar[str] = "algorithm"

    linear: ClassVar[bool] = True
    """Whether the update is a `transition`."""
    plain: ClassVar[bool] = False
    """Whether nothing is carried but the state, and each token makes one write by its gradient."""
    solves: ClassVar[bool] = False
    """Whether it needs the closed form of l2 regression on a single linear map."""
    bounded: ClassVar[bool] = False
    """Whether a write has a bounded size, however large the gradient."""
    decays_first: ClassVar[bool] = False
    """Whether gradients are taken at the decayed memory, whatever the retention gate says."""
    accumulates: ClassVar[bool] = False
    """Whether it sums up pairs and never looks at what the memory recalls."""

    step: Positive = "data"
    """Source of the step size."""
    per: Side = "head"
    """Whether each head, each row or each column of a matrix has coefficients of its own."""
    max_step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Upper end of a projected or learned step; None is what is stable."""

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of what is carried from token to token for each matrix; the first is the state."""

    @property
    def writes(self) -> int:
        """Writes a token makes, each with a key and a value of its own."""
        return 1

    @property
    def window_length(self) -> int:
        """Tokens whose losses are minimised at each token."""
        return 1

    @property
    def weighs_gradients(self) -> bool:
        """Whether `scale` depends on how large a gradient is."""
        return False

    def limit(self, chunk: int) -> float:
        """The largest step that is stable where gradients are taken every `chunk` tokens."""
        return stable_step(chunk)

    def coefficients(self, chunk: int) -> tuple[Coefficient, ...]:
        """The step, and what a subclass adds, for gradients taken every `chunk` tokens."""
        limit = self.max_step or self.limit(chunk)
        return (
            Coefficient(
                name="step",
                source=self.step,
                low=0,
                high=limit,
                initial=min(1.0, limit / 2),
                per=self.per,
            ),
        )

    def scale(self, norm: Tensor, h: Tensor, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor on one token's gradient u h^T, from its norm `[..., 1, 1]`, from what
        entered the matrix, h `[..., 1, in]`, and from the gates: `[..., 1 or out, 1]`.
        """
        return 1.0

    def steps(self, chunk: int) -> float:
        """The factor on every step, where gradients are taken every `chunk` tokens."""
        return 1.0

    def transition(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> Transition:
        """The update of one token, given the factor of the retention gate on the state.

        What a `linear` algorithm gives; any other gives `sums` and `direction`.
        """
        raise NotImplementedError(f"{self.kind} is not linear in its gradients")

    def sums(self, retain: Tensor | float, gates: Mapping[str, Tensor]) -> tuple[Sum, ...]:
        """How every slot but the state is updated; only the gates of one side are ever used."""
        raise NotImplementedError(f"{self.kind} is a transition")

    def direction(
        self, sums: Sequence[Tensor], gradient: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        """What a step moves the state against, given the sums with this token in them.

        It is asked for many tokens at once, so it broadcasts over leading dimensions.
        """
        raise NotImplementedError(f"{self.kind} is a transition")

    def advance(
        self,
        old: Sequence[Tensor],
        gradient: Tensor,
        h: Tensor,
        retain: Tensor,
        gates: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """Every slot after one token: `old` and `gradient` are `[..., out, in]`, h `[..., 1, in]`.

        `gradient` is scaled, and the step not yet in it.
        """
        if not self.linear:
            past = zip(self.sums(retain, gates), old[1:], strict=True)
            sums = [update.after(z, gradient, h) for update, z in past]
            move = self.direction(sums, gradient, gates)
            return [retain * old[0] - gates["step"] * move, *sums]
        update, write = self.transition(retain, gates), gates["step"] * gradient
        return [
            sum(
                (c * z for c, z in zip(carry, old, strict=True) if c is not None),
                -inject * write,
            )
            for carry, inject in zip(update.carry, update.inject, strict=True)
        ]

    def probe(self, x: Tensor, slots: Sequence[Tensor], gates: Mapping[str, Tensor]) -> Tensor:
        """What the memory is read at in place of x `[..., in]`, given every slot: an algorithm that
        solves for W = G P carries G, and G is read at P x."""
        return x

    def shapes(self, out: int, width: int) -> dict[str, tuple[int, int]]:
        """The shape of each slot for a matrix `[out, width]`."""
        return dict.fromkeys(self.slots, (out, width))

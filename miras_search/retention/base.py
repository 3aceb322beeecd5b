"""What a retention gate is: how the memory moves when nothing is written, and what is seen of it.

A gate keeps a state A that moves linearly, A_t = a_t A_{t-1} - z_t grad, and shows the memory
W_t = psi(A_t). For most gates psi is the identity. Others are mirror maps, the solution of
`argmin <grad, W> + D(W, W_{t-1}) / e_t` for a divergence D other than the squared distance; but not
the printed map of `lq`, which minimises nothing, nor `elastic_net` as FTRL, the minimiser over the
sum of all gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Coefficient, Component, Side, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


KEPT = "a_t W_{t-1}"
"""The kept memory as it stands in the equation of an algorithm."""


class Retention(Component):
    """How much of the memory is kept at token t, and in which geometry it moves.

    Gates and states broadcast: a state is `[..., out, in]`, a gate `[..., 1, 1]` per head,
    `[..., out, 1]` per channel or `[..., 1, in]` per input.
    """

    axis: ClassVar[str] = "retention"

    keeps_everything: ClassVar[bool] = False
    """Whether nothing is forgotten and W = A."""
    linear: ClassVar[bool] = True
    """Whether W = A and the state moves linearly, so that a chunk has causal coefficients."""
    proximal: ClassVar[bool] = False
    """Whether `settle` changes the state, so that each token has to wait for the one before."""
    mixes_rows: ClassVar[bool] = False
    """Whether an entry of W depends on all of its row, so that a row of one entry is constant."""
    uses_step: ClassVar[bool] = False
    """Whether what is kept depends on the step of the algorithm."""
    kept: ClassVar[str]
    """What stands in place of `KEPT` in the update of a variant."""

    @property
    def decays_first(self) -> bool:
        """Whether gradients are taken at the decayed memory a_t W_{t-1}, not at W_{t-1}."""
        return False

    def coefficients(self) -> tuple[Coefficient, ...]:
        """The per-token numbers this gate wants; none unless a subclass says so."""
        return ()

    def retain(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor a_t on the old state: 1 keeps everything."""
        return 1.0

    def write(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """The factor on the step of an algorithm, z_t / e_t."""
        return 1.0

    def settle(self, state: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """The state after a linear move, `gates["step"]` being z_t: the identity unless the gate
        is proximal."""
        return state

    def settle_all(
        self, state: Tensor, pushes: Tensor, retain: Tensor, gates: Mapping[str, Tensor]
    ) -> Tensor:
        """The states `[B, H, C, out, in]` of C tokens, each settled after a linear move of the one
        before: a_t W_{t-1} + push_t. A proximal gate may do this faster than token by token."""
        import torch

        states = []
        for t, push in enumerate(pushes.unbind(2)):
            now = {name: g[:, :, t] if g.dim() else g for name, g in gates.items()}
            kept = retain[:, :, t] if retain.dim() else retain
            state = self.settle(kept * state + push, now)
            states.append(state)
        return torch.stack(states, dim=2)

    def expose(self, state: Tensor) -> Tensor:
        """psi: the memory W that a state A stands for."""
        return state

    def start(self, weights: Tensor) -> Tensor:
        """The state A_0 for which `expose` gives the initial memory W_0."""
        return weights

    def feasible(self, free: Tensor) -> Tensor:
        """An initial memory for any real numbers, where `start` does not take them all."""
        return free


def decay(source: Unit, per: Side, initial: float) -> Coefficient:
    """The coefficient "retention", a factor between 0 and 1."""
    return Coefficient(
        name="retention", source=source, low=0, high=1, initial=initial, per=per, neutral=1.0
    )


def penalty(source: Unit, per: Side) -> Coefficient:
    """The coefficient "ridge", the weight of 1/2 ||W||^2 between 0 and 1."""
    return Coefficient(
        name="ridge", source=source, low=0, high=1, initial=0.02, per=per, neutral=0.0
    )

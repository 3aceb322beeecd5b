"""The two forms of memory: matrices that are updated, and pairs that are kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from miras_search.component import Component

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class Memory(Component):
    """A function from keys to values that is written while it reads."""

    axis: ClassVar[str] = "memory"

    grows: ClassVar[bool]
    """The state grows with every token, and there is nothing for an inner optimiser to update."""
    linear: ClassVar[bool]
    """Whether M is affine in its one matrix W, so that only the bias makes a gradient look at W."""
    is_map: ClassVar[bool] = False
    """M(x; W) = W x for one matrix W."""
    least_kept: ClassVar[float] = 0.0
    """The least retention that a gate may project: below, the memory has no stable step."""
    rows_of_one: ClassVar[bool] = False
    """Whether the rows of its matrix have a single entry."""
    preferred_qk_norm: ClassVar[str] = "l2"
    """The normalisation of queries and keys that `qk_norm: auto` means."""

    def check(self, key_width: int, value_width: int) -> str | None:
        """Why these widths cannot be used, in one sentence; None, unless a subclass says so."""
        return None


class ParametricMemory(Memory):
    """A memory M(x; W) whose matrices W are learned by the inner optimiser."""

    grows: ClassVar[bool] = False

    @property
    @abstractmethod
    def learns_from_zero(self) -> bool:
        """Whether every matrix has a gradient when all are zero."""

    @abstractmethod
    def matrices(self, key_width: int, value_width: int) -> dict[str, tuple[int, int]]:
        """The (out, in) shape of each updated matrix, by name."""

    def initial_std(self, key_width: int, value_width: int) -> dict[str, float]:
        """The standard deviation of each matrix's learned start, for keys of unit length.

        Unless a subclass knows better, what keeps the size of what goes in.
        """
        shapes = self.matrices(key_width, value_width)
        return {name: width**-0.5 for name, (_, width) in shapes.items()}

    @abstractmethod
    def apply(self, maps: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """M(x) for x `[..., K]`, giving `[..., V]`.

        Every matrix is met only through `maps[name]`, a linear map from `[..., in]` to
        `[..., out]` that must be called exactly once: the lowerings pass maps that record
        what goes in, that add a tap to what comes out, or that read the weights of another
        token at each position.
        """


class GrowingMemory(Memory):
    """A memory that keeps keys and values themselves and answers from them."""

    grows: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    @property
    def kept(self) -> int | None:
        """How many past pairs a later token may need; None is all of them."""
        return None

    @abstractmethod
    def read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Answer the last T tokens from N pairs, token t from (some of) the first N - T + t + 1.

        q `[B, H, T, K]`, k `[B, H, N, K]`, v `[B, H, N, V]`, giving `[B, H, T, V]`.
        """

    def recall(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Answer T questions from the N pairs that are kept, N at least 1, all of them at the same
        memory: one after another, unless a subclass knows better.

        q `[B, H, T, K]`, k `[B, H, N, K]`, v `[B, H, N, V]`, giving `[B, H, T, V]`.
        """
        import torch

        return torch.cat([self.read(x, k, v) for x in q.split(1, dim=2)], dim=2)

"""What a lowering is given and gives back: the layout of a call, and the state it carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from miras_search.memory.base import ParametricMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from miras_search.component import Coefficient
    from miras_search.variant import Variant

Gates = dict[str, "Tensor"]
"""Coefficient values by name: `[B, H, T, 1]`, `[B, H, T, channels]`, or a scalar if fixed."""


@dataclass(frozen=True)
class State:
    """What a memory carries from one call to the next.

    A parametric memory has a tensor `[B, H, out, in]` for each slot of the algorithm and each
    matrix ("weights/W1", "momentum/W1", ...) and, inside a chunk, the weights its gradients are
    taken at ("anchor/W1"). A growing memory has "keys" `[B, H, N, K]` and "values"
    `[B, H, N, V]`. `position` counts the tokens read so far.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    position: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def with_pairs(self, k: Tensor, v: Tensor) -> State:
        """The state of a growing memory after T more pairs, k `[B, H, T, K]`, v `[B, H, T, V]`."""
        if self.tensors:
            k = torch.cat([self.tensors["keys"], k], dim=2)
            v = torch.cat([self.tensors["values"], v], dim=2)
        return State({"keys": k, "values": v}, k.shape[2])

    def detach(self) -> State:
        """The same state, cut from the graph that computed it."""
        return State({name: t.detach() for name, t in self.tensors.items()}, self.position)


@dataclass(frozen=True)
class Call:
    """One checked call of `memorize`, laid out with heads before tokens."""

    variant: Variant
    q: Tensor
    """`[B, H, T, K]`"""
    k: Tensor
    """`[B, H, T, K]`"""
    v: Tensor
    """`[B, H, T, V]`"""
    bias_gates: Gates
    """What the bias asked for: per head or per value channel."""
    weight_gates: dict[str, Gates]
    """What retention and algorithm asked for, for each matrix: per head or per row."""
    state: State
    """Where the memory stands before the first token."""

    @property
    def tokens(self) -> int:
        """T."""
        return self.k.shape[2]


def prepare(
    variant: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None,
    state: State | None,
) -> Call:
    """Check shapes and names and lay the call out; see `memorize` for the arguments.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape than expected.
    """
    given = _named({"q": q, "k": k, "v": v}, gates, weights or {}, state)
    batch, tokens, heads, key_width = _shape("k", k, 4)
    value_width = _shape("v", v, 4)[-1]
    if not tokens:
        raise ValueError("q, k and v have no tokens: expected [B, T, H, K] with T of at least 1")
    _expect("q", q, (batch, tokens, heads, key_width))
    _expect("v", v, (batch, tokens, heads, value_width))
    if problem := variant.memory.check(key_width, value_width):
        raise ValueError(problem)

    shapes: dict[str, tuple[int, int]] = {}
    if isinstance(variant.memory, ParametricMemory):
        shapes = variant.memory.matrices(key_width, value_width)
    wanted = variant.coefficients()
    _reject_unknown(gates, wanted, shapes)
    lead = (batch, tokens, heads)

    def value(c: Coefficient, channels: int, names: tuple[str, ...]) -> Tensor:
        if not isinstance(c.source, str):
            return q.new_tensor(c.source)
        name = next((name for name in names if name in gates), None)
        if name is None:
            raise ValueError(f"gates lacks '{c.name}': expected {lead} or {(*lead, channels)}")
        gate = gates[name]
        if gate.shape == lead:
            gate = gate[..., None]
        if gate.shape not in {(*lead, 1), (*lead, channels)}:
            raise ValueError(
                f"gate '{name}' has shape {tuple(gate.shape)}: expected {lead}, "
                f"or {(*lead, channels)} for one number per channel"
            )
        return gate.transpose(1, 2)

    call = Call(
        variant,
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        bias_gates={
            c.name: value(c, value_width, (c.name,)) for c in wanted if c.acts_on == "output"
        },
        weight_gates={
            matrix: {
                c.name: value(c, out, (f"{c.name}.{matrix}", c.name))
                for c in wanted
                if c.acts_on == "weights"
            }
            for matrix, (out, _) in shapes.items()
        },
        state=_start(variant, shapes, k, weights)
        if state is None
        else _checked(state, variant, shapes, k, v),
    )
    # Last, so that a wrong shape is told as such. Nothing is converted on the way.
    for name, tensor in given.items():
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}: expected the dtype of q, {q.dtype}")
    return call


def _start(
    variant: Variant,
    shapes: dict[str, tuple[int, int]],
    k: Tensor,
    weights: Mapping[str, Tensor] | None,
) -> State:
    """The state before the first token: the initial weights, and zero in every other slot."""
    batch, _, heads, _ = k.shape
    given = dict(weights or {})
    if unknown := set(given) - set(shapes):
        raise ValueError(f"unknown weights {sorted(unknown)}: expected {sorted(shapes)}")
    memory = variant.memory
    from_zero = isinstance(memory, ParametricMemory) and memory.learns_from_zero
    tensors: dict[str, Tensor] = {}
    for matrix, (out, width) in shapes.items():
        if matrix in given:
            _expect(f"weights['{matrix}']", given[matrix], (heads, out, width))
            start = given[matrix].expand(batch, heads, out, width)
        elif from_zero:
            start = k.new_zeros(batch, heads, out, width)
        else:
            raise ValueError(f"weights lacks '{matrix}': expected {(heads, out, width)}")
        first, *others = variant.algorithm.slots
        tensors[f"{first}/{matrix}"] = start
        for slot in others:
            tensors[f"{slot}/{matrix}"] = torch.zeros_like(start)
    return State(tensors)


def _checked(
    state: State, variant: Variant, shapes: dict[str, tuple[int, int]], k: Tensor, v: Tensor
) -> State:
    """The state, if this variant could have left it behind for this batch and these widths."""
    lead = (k.shape[0], k.shape[2])
    if variant.memory.grows:
        kept = (*lead, state.position)
        expected = {"keys": (*kept, k.shape[-1]), "values": (*kept, v.shape[-1])}
    else:
        inside = state.position % variant.anchor_every != 0
        slots = [*variant.algorithm.slots, *(["anchor"] if inside else [])]
        expected = {f"{slot}/{m}": (*lead, *shape) for slot in slots for m, shape in shapes.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    if found != expected:
        raise ValueError(f"state holds {found}: expected {expected}")
    return state


def _named(
    qkv: Mapping[str, Tensor],
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    state: State | None,
) -> dict[str, Tensor]:
    """Every tensor of a call under the name a user knows it by; nothing else is let in."""
    if not isinstance(state, State | None):
        raise ValueError(f"state is a {type(state).__name__}: expected what memorize returned")
    given = {**qkv, **{f"gates['{n}']": g for n, g in gates.items()}}
    given |= {f"weights['{n}']": w for n, w in weights.items()}
    given |= {f"state['{n}']": t for n, t in (state.tensors if state else {}).items()}
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating-point tensor, got {type(tensor)}")
    return given


def _shape(name: str, tensor: Tensor, dims: int) -> torch.Size:
    if tensor.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {dims} dimensions")
    return tensor.shape


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}")


def _reject_unknown(
    gates: Mapping[str, Tensor],
    wanted: tuple[Coefficient, ...],
    shapes: dict[str, tuple[int, int]],
) -> None:
    read = {c.name for c in wanted if not c.fixed}
    own = {
        f"{c.name}.{m}" for c in wanted if c.acts_on == "weights" and not c.fixed for m in shapes
    }
    if unknown := set(gates) - read - own:
        fixed = sorted(unknown & {c.name for c in wanted if c.fixed})
        why = f"; {fixed} fixed by the variant" if fixed else ""
        raise ValueError(f"unknown gates {sorted(unknown)}: expected {sorted(read)}{why}")

"""What a lowering is given and gives back: the layout of a call, and the state it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from miras_search.memory.base import GrowingMemory, ParametricMemory

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.component import Coefficient
    from miras_search.variant import Variant

Gates = dict[str, "Tensor"]
"""Coefficient values by name. Of the output: `[B, H, T, 1]` or `[B, H, T, V]`. Of a matrix:
`[B, H, T, 1, 1]` per head, `[B, H, T, out, 1]` per channel, `[B, H, T, 1, in]` per input. A scalar
if fixed."""

RETAIN = "retain"
"""Under this name the gates of a matrix hold the factor of the retention gate on the old state."""

WINDOW = "window/"
"""Names of what a state keeps of past tokens begin with this."""


@dataclass(frozen=True)
class State:
    """What a memory carries from one call to the next.

    A parametric memory has a tensor `[B, H, out, in]` for each slot of the algorithm and each
    matrix ("weights/W1", "momentum/W1", ...) and, inside a chunk, the state its gradients are
    taken at ("anchor/W1"). Under a mirror map "weights" is the dual state A. A window keeps the
    tokens it still needs ("window/keys", ...). A growing memory has "keys" `[B, H, N, K]` and
    "values" `[B, H, N, V]`. `position` counts the writes so far.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    position: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def with_pairs(self, k: Tensor, v: Tensor) -> State:
        """The state of a growing memory after T more pairs, k `[B, H, T, K]`, v `[B, H, T, V]`."""
        position = self.position + k.shape[2]
        if self.tensors:
            k = torch.cat([self.tensors["keys"], k], dim=2)
            v = torch.cat([self.tensors["values"], v], dim=2)
        return State({"keys": k, "values": v}, position)

    def last(self, pairs: int | None) -> State:
        """The state of a growing memory without all but the last pairs; None keeps them."""
        if pairs is None or self.tensors["keys"].shape[2] <= pairs:
            return self
        start = self.tensors["keys"].shape[2] - pairs
        # Copies: views would hold all that was read.
        last = {name: x[:, :, start:].clone() for name, x in self.tensors.items()}
        return State(last, self.position)

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
    """What retention and algorithm asked for, for each matrix, and `RETAIN`; "step" is the step as
    it is applied, with the factors of retention gate and chunk. Matrices that move alike have the
    same mapping."""
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
    for name, mapping in (("gates", gates), ("weights", {} if weights is None else weights)):
        if not isinstance(mapping, Mapping):
            told = f"{name} is a {type(mapping).__name__}: expected a mapping from names to tensors"
            raise ValueError(told)
    given = _named({"q": q, "k": k, "v": v}, gates, weights or {}, state)
    batch, tokens, heads, key_width = _shape("k", k, 4)
    value_width = _shape("v", v, 4)[-1]
    writes = variant.algorithm.writes
    if not tokens:
        raise ValueError("q, k and v have no tokens: expected [B, T, H, K] with T of at least 1")
    if tokens % writes:
        told = f"{variant.algorithm} writes {writes} times a token"
        raise ValueError(f"k has shape {tuple(k.shape)}: {told}, expected a multiple in place of T")
    lead = (batch, tokens, heads)
    why = f", one for {writes} keys" if writes > 1 else ""
    _expect("q", q, (batch, tokens // writes, heads, key_width), why)
    _expect("v", v, (*lead, value_width))
    if problem := variant.memory.check(key_width, value_width):
        raise ValueError(problem)

    shapes: dict[str, tuple[int, int]] = {}
    if isinstance(variant.memory, ParametricMemory):
        shapes = variant.memory.matrices(key_width, value_width)
    wanted = variant.coefficients()
    _reject_unknown(gates, wanted, shapes)

    def value(c: Coefficient, channels: int, names: tuple[str, ...]) -> Tensor:
        """`[B, H, T, 1 or channels]`, or a scalar."""
        channels = 1 if c.per == "head" else channels
        wide = "" if channels == 1 else f", or {(*lead, channels)} for one number per channel"
        if not isinstance(c.source, str):
            fixed = q.new_full((), c.source)
            if writes == 1 or c.neutral is None:
                return fixed
            # A retention gate acts at the first write of a token alone.
            first = torch.arange(tokens, device=q.device) % writes == 0
            return fixed.where(first, c.neutral).expand(batch, heads, tokens)[..., None]
        name = next((name for name in names if name in gates), None)
        if name is None:
            raise ValueError(f"gates lacks '{c.name}': expected {lead}{wide}")
        gate = gates[name]
        if gate.shape == lead:
            gate = gate[..., None]
        if gate.shape not in {(*lead, 1), (*lead, channels)}:
            raise ValueError(f"gate '{name}' has shape {tuple(gate.shape)}: expected {lead}{wide}")
        return gate.transpose(1, 2)

    def of_matrix(c: Coefficient, matrix: str) -> Tensor:
        """`[B, H, T, 1 or out, 1]` or `[B, H, T, 1, in]`, or a scalar."""
        out, width = shapes[matrix]
        columns = c.per == "input"
        gate = value(c, width if columns else out, (f"{c.name}.{matrix}", c.name))
        if gate.dim() == 0:
            return gate
        return gate[..., None, :] if columns else gate[..., None]

    def of_weights(matrix: str) -> Gates:
        return {c.name: of_matrix(c, matrix) for c in wanted if c.acts_on == "weights"}

    # Matrices without gates of their own share one mapping, and with it what is made of it.
    moving = [c.name for c in wanted if c.acts_on == "weights" and not c.fixed]
    shared = all(name in gates and gates[name].shape == lead for name in moving)
    if shapes and shared and not any("." in name for name in gates):
        weight_gates = dict.fromkeys(shapes, of_weights(next(iter(shapes))))
    else:
        weight_gates = {matrix: of_weights(matrix) for matrix in shapes}
    bias_gates = {c.name: value(c, value_width, (c.name,)) for c in wanted if c.acts_on == "output"}
    if state is None:
        state = _start(variant, shapes, k, weights)
    else:
        # Those that a window keeps, as wide as they are now.
        kept = {f"importance.{m}": g.get("importance") for m, g in weight_gates.items()}
        kept = {n: g.shape[3:] for n, g in (bias_gates | kept).items() if g is not None and g.dim()}
        state = _checked(state, variant, shapes, kept, k, v)
    # Behind all shapes, so that a wrong one is told as such. Nothing is converted on the way.
    for name, tensor in given.items():
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}: expected the dtype of q, {q.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}: expected the device of q, {q.device}")
    # By identity: matrices that share a mapping share what is made of it.
    applied = {id(own): _applied(variant, own) for own in weight_gates.values()}
    return Call(
        variant,
        q.repeat_interleave(writes, dim=1).transpose(1, 2) if writes > 1 else q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        bias_gates,
        {matrix: applied[id(own)] for matrix, own in weight_gates.items()},
        state,
    )


def _applied(variant: Variant, gates: Gates) -> Gates:
    """The gates of a matrix with `RETAIN`, and with the step as it is applied."""
    step = gates["step"] * variant.algorithm.steps(variant.anchor_every)
    gates = gates | {"step": step}
    retain = variant.retention.retain(gates)
    if not isinstance(retain, torch.Tensor):
        retain = step.new_full((), retain)
    return gates | {"step": step * variant.retention.write(gates), RETAIN: retain}


def _start(
    variant: Variant,
    shapes: dict[str, tuple[int, int]],
    k: Tensor,
    weights: Mapping[str, Tensor] | None,
) -> State:
    """The state before the first token: that of the initial weights, and zero in other slots."""
    batch, _, heads, _ = k.shape
    given = dict(weights or {})
    if unknown := set(given) - set(shapes):
        raise ValueError(f"unknown weights {sorted(unknown)}: expected {sorted(shapes)}")
    tensors: dict[str, Tensor] = {}
    for matrix, (out, width) in shapes.items():
        if matrix in given:
            _expect(f"weights['{matrix}']", given[matrix], (heads, out, width))
            start = variant.retention.start(given[matrix]).expand(batch, heads, out, width)
        elif getattr(variant.memory, "learns_from_zero", False):
            start = k.new_zeros(batch, heads, out, width)
        else:
            raise ValueError(f"weights lacks '{matrix}': expected {(heads, out, width)}")
        first, *others = variant.algorithm.slots
        tensors[f"{first}/{matrix}"] = start
        sizes = variant.algorithm.shapes(out, width)
        for slot in others:
            tensors[f"{slot}/{matrix}"] = k.new_zeros(batch, heads, *sizes[slot])
    return State(tensors)


def _checked(
    state: State,
    variant: Variant,
    shapes: dict[str, tuple[int, int]],
    gates: Mapping[str, tuple[int, ...]],
    k: Tensor,
    v: Tensor,
) -> State:
    """The state, if this variant could have left it behind for this batch and these widths."""
    lead = (k.shape[0], k.shape[2])
    expected: dict[str, tuple[int, ...]] = {}
    if isinstance(variant.memory, GrowingMemory):
        most = variant.memory.kept
        kept = (*lead, state.position if most is None else min(state.position, most))
        expected = {"keys": (*kept, k.shape[-1]), "values": (*kept, v.shape[-1])}
    else:
        for m, (out, width) in shapes.items():
            for slot, size in variant.algorithm.shapes(out, width).items():
                expected[f"{slot}/{m}"] = (*lead, *size)
            if state.position % variant.anchor_every:
                expected[f"anchor/{m}"] = (*lead, out, width)
        kept = (*lead, min(state.position, variant.algorithm.window_length - 1))
        if kept[-1]:
            expected[f"{WINDOW}keys"] = (*kept, k.shape[-1])
            expected[f"{WINDOW}values"] = (*kept, v.shape[-1])
            expected |= {f"{WINDOW}gates/{name}": (*kept, *wide) for name, wide in gates.items()}
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
            got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: expected a floating-point tensor, got {got}")
    return given


def _shape(name: str, tensor: Tensor, dims: int) -> torch.Size:
    if tensor.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {dims} dimensions")
    return tensor.shape


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], why: str = "") -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}{why}")


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

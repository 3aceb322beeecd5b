"""A variant: one point of the design space, with a name that is equal for equal functions."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from miras_search import parsing
from miras_search.algorithm.base import Algorithm
from miras_search.bias.base import Bias
from miras_search.component import Coefficient, Component
from miras_search.errors import InvalidValues, Path
from miras_search.macro.base import Macro
from miras_search.macro.lmm import Lmm
from miras_search.memory.base import Memory
from miras_search.registry import AXES, CHOICES
from miras_search.retention.base import KEPT, Retention


class Variant(BaseModel, frozen=True):
    """Four independent choices, the macro architecture and the side choices around them.

    Immutable and hashable. Two variants that compute the same function have the same
    `digest`; `==` compares them as written.
    """

    model_config = ConfigDict(extra="forbid", strict=True, ignored_types=(cached_property,))

    memory: InstanceOf[Memory]
    """What is updated."""
    bias: InstanceOf[Bias]
    """The inner loss it minimises."""
    retention: InstanceOf[Retention]
    """What is kept."""
    algorithm: InstanceOf[Algorithm]
    """How it learns."""
    macro: InstanceOf[Macro] = Lmm()
    """Where it stands in a model, and what beside it."""
    chunk: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Tokens that share the weights their gradients are taken at: 1 is the exact token-by-token
    rule, more is the papers' approximation (it changes the function)."""
    heads: Annotated[int, Field(ge=1, le=2**16)] = 4
    """Independent memories that share the width."""
    conv: Annotated[int, Field(ge=0, le=2**16)] = 4
    """Kernel of the causal depthwise convolution after the projections; 0 leaves it out."""
    qk_norm: Literal["auto", "l2", "rms", "none"] = "auto"
    """Normalisation of queries and keys; auto is what the memory prefers."""
    positions: Literal["none", "rotary"] = "none"
    """What says where a token stands; rotary turns queries and keys by their place (RoPE)."""
    degree: Annotated[int, Field(ge=1, le=4)] = 1
    """Degree of the polynomial features of queries and keys; 1 leaves them as they are."""
    gate_rank: Annotated[int, Field(ge=1, le=2**16)] = 32
    """Rank of the projection of per-channel coefficients."""
    initial_memory: Literal["learned", "zero"] = "learned"
    """Whether W_0 is trained by the outer loss or zero."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: Path = ()) -> Variant:
        """A variant from plain values, as YAML gives them.

        Each axis is a kind or a mapping of `kind` and fields:
        `{"memory": "matrix", "bias": {"kind": "lp", "p": 3.0}, ...}`.

        Raises:
            InvalidValues: every problem at once, each with its place.
        """
        found: list[tuple[Path, str]] = []
        values: dict[str, Any] = {}
        for name, value in data.items():
            place = (*path, name)
            try:
                if name in CHOICES:
                    values[name] = parsing.component(name, value, place)
                else:
                    values[name] = parsing.field_value(cls, name, value, place)
            except InvalidValues as error:
                found += error.found
        found += [((*path, axis), "this axis is required") for axis in AXES if axis not in data]
        if found:
            raise InvalidValues(found)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every field spelled out; `from_dict` reads them back."""
        chosen = {name: component.to_dict() for name, component in self.choices().items()}
        return chosen | self.side_choices()

    def to_yaml_dict(self) -> dict[str, Any]:
        """Plain values with only what differs from the defaults: the shortest equal YAML."""
        chosen = {n: component.to_yaml_value() for n, component in self.shown_choices().items()}
        return chosen | self.model_dump(exclude=set(CHOICES), exclude_defaults=True)

    def axes(self) -> dict[str, Component]:
        """The four choices by axis, in the order of `AXES`."""
        return {axis: getattr(self, axis) for axis in AXES}

    def choices(self) -> dict[str, Component]:
        """The four choices and the macro architecture by name, in the order of `CHOICES`."""
        return {name: getattr(self, name) for name in CHOICES}

    def shown_choices(self) -> dict[str, Component]:
        """The choices without a macro architecture of the memory alone."""
        return self.choices() if self.macro != Lmm() else dict(self.axes())

    @property
    def idle(self) -> frozenset[str]:
        """The axes that mean nothing: to a memory that keeps pairs, all others."""
        return frozenset(AXES) - {"memory"} if self.memory.grows else frozenset()

    def side_choices(self) -> dict[str, Any]:
        """The fields that are not components."""
        return self.model_dump(exclude=set(CHOICES))

    def ignores(self, name: str, values: Iterable[Any]) -> bool:
        """Whether a field means nothing to it: with any of `values` it computes the same."""
        return all(self.replace(**{name: value}).digest == self.digest for value in values)

    def single_difference(self, other: Variant) -> str | None:
        """The choice, side choices among them, that makes the other function of this one or this
        one of the other; None if it takes several, or if only one of them keeps pairs: what else
        is chosen then means nothing to it."""
        if self.memory.grows != other.memory.grows or self.digest == other.digest:
            return None
        for name, mine in self.to_dict().items():
            theirs = other.to_dict()[name]
            if mine != theirs and (
                self.replace(**{name: getattr(other, name)}).digest == other.digest
                or other.replace(**{name: getattr(self, name)}).digest == self.digest
            ):
                return name
        return None

    def replace(self, **changes: Any) -> Variant:
        """A copy with some fields changed."""
        return Variant(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def coefficients_by_axis(self) -> list[tuple[str, Component, tuple[Coefficient, ...]]]:
        """Axis, component and the per-token numbers it wants; empty if the memory grows."""
        if self.memory.grows:
            return []
        return [
            ("bias", self.bias, self.bias.coefficients()),
            ("retention", self.retention, tuple(map(self._kept, self.retention.coefficients()))),
            ("algorithm", self.algorithm, self.algorithm.coefficients(self.anchor_every)),
        ]

    def _kept(self, c: Coefficient) -> Coefficient:
        """A coefficient of the gate that keeps what the memory needs."""
        least = self.memory.least_kept if c.neutral == 1 else c.low
        return replace(c, low=max(c.low, least))

    def coefficients(self) -> tuple[Coefficient, ...]:
        """The per-token numbers the memory wants, fixed ones included."""
        return tuple(c for _, _, wanted in self.coefficients_by_axis() for c in wanted)

    @property
    def written(self) -> Bias:
        """The bias whose gradients are written: dot, where an algorithm sums up pairs."""
        if not self.algorithm.accumulates:
            return self.bias
        from miras_search.bias.dot import DOT

        return DOT

    @property
    def gradient_is_constant(self) -> bool:
        """Whether the inner gradient is the same whatever the memory holds."""
        return self.memory.linear and not self.written.uses_prediction

    @property
    def affine(self) -> bool:
        """Whether every gradient is affine in W k at the memory just before its token, and what
        becomes of it linear, so that the gradients of many tokens solve a triangular system."""
        simple = self.written.quadratic or not self.written.uses_prediction
        linear = self.algorithm.linear and self.retention.linear
        known = not self.algorithm.weighs_gradients and self.algorithm.window_length == 1
        return self.memory.is_map and simple and linear and known and self.anchor_every == 1

    @property
    def has_causal_coefficients(self) -> bool:
        """Whether numbers say how much of each write is in the state after each token. There are
        none for rows and columns of a matrix at once."""
        sides = {"channel", "input"} <= self._sides
        return self.algorithm.linear and not self.retention.proximal and not sides

    @property
    def _sides(self) -> set[str]:
        """What the coefficients of matrices are of."""
        return {c.per for c in self.coefficients() if c.acts_on == "weights"}

    @property
    def decays_first(self) -> bool:
        """Whether gradients are taken at the decayed memory."""
        return self.algorithm.decays_first or self.retention.decays_first

    @property
    def anchor_every(self) -> int:
        """Tokens between the weights that gradients are taken at: `chunk`, where it matters."""
        return 1 if self.gradient_is_constant else self.chunk

    # Not cached: pydantic's == compares caches too, and one that holds itself never ends.
    @property
    def canonical(self) -> Variant:
        """The simplest variant that computes the same function."""
        from miras_search.identities import simplify

        return simplify(self)

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits, equal for variants that compute the same function."""
        told = self.canonical.to_dict()
        if self.positions == "none":  # as it was before there were such
            del told["positions"]
        text = json.dumps(told, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def equations(self) -> dict[str, str]:
        """What the variant computes, in plain text, axis by axis; the algorithm's is the update."""
        simplest = self.canonical
        told = {name: choice.formula for name, choice in simplest.shown_choices().items()}
        if self.memory.grows:
            return {name: told[name] for name in ("memory", "macro") if name in told}
        update = simplest.algorithm.formula.replace(KEPT, simplest.retention.kept)
        if not simplest.retention.linear:
            update = update.replace("W_t = ", "A_t = ")
        return told | {"algorithm": update}

    @property
    def slug(self) -> str:
        """A short readable name: the kinds."""
        return "-".join(component.kind for component in self.shown_choices().values())

    def __str__(self) -> str:
        shown = self.shown_choices()
        chosen = ("-" if name in self.idle else str(choice) for name, choice in shown.items())
        side = self.model_dump(exclude=set(CHOICES), exclude_defaults=True)
        return " | ".join([*chosen, *(f"{name}={value}" for name, value in side.items())])


def side_choices_of(variants: Sequence[Variant]) -> dict[str, list[Any]]:
    """The values of each side choice by name, one for each variant: None where it means nothing,
    and the function would be the same with any value that others have."""
    found: dict[str, list[Any]] = {}
    for name in variants[0].side_choices() if variants else ():
        values = [getattr(variant, name) for variant in variants]
        every = {*values}
        found[name] = [
            None if len(every) > 1 and variant.ignores(name, every - {value}) else value
            for variant, value in zip(variants, values, strict=True)
        ]
    return found


def settings_of(variants: Sequence[Variant]) -> dict[str, list[Any]]:
    """The values of each setting of a kind by its whole name, such as "memory.mlp.depth", one for
    each variant: "none" where it is off, None where a variant has none or it means nothing."""
    found: dict[tuple[str, str, str], dict[int, Any]] = defaultdict(dict)
    for i, variant in enumerate(variants):
        for axis, choice in variant.choices().items():
            for name, value in choice.model_dump().items():
                found[axis, choice.kind, name][i] = value
    told = {}
    for (axis, kind, name), values in found.items():
        every = {*values.values()}
        column: list[Any] = [None] * len(variants)
        for i, value in values.items():
            own = getattr(variants[i], axis)
            others = (own.model_copy(update={name: other}) for other in every - {value})
            if len(every) == 1 or not variants[i].ignores(axis, others):
                column[i] = "none" if value is None else value
        told[f"{axis}.{kind}.{name}"] = column
    return told

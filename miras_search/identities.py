"""Equal functions under different names: what is merged, so that no function is trained twice.

An identity rewrites a variant to a simpler one that computes the same function. Each carries an
example, and the tests run both sides of it on the same input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miras_search.variant import Variant


@dataclass(frozen=True)
class Identity:
    """`rewrite(variant)` is an equal, simpler variant, or None where it does not apply."""

    statement: str
    rewrite: Callable[[Variant], Variant | None]
    example: dict[str, Any]
    """A variant (as `Variant.from_dict` reads it) to which it applies."""


IDENTITIES: list[Identity] = []


def identity(
    statement: str, **example: Any
) -> Callable[[Callable[[Variant], Variant | None]], Callable[[Variant], Variant | None]]:
    """Register a rewrite; `example` names the fields of a variant to which it applies."""
    base = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}

    def enter(
        rewrite: Callable[[Variant], Variant | None],
    ) -> Callable[[Variant], Variant | None]:
        IDENTITIES.append(Identity(statement, rewrite, base | example))
        return rewrite

    return enter


def _as_gd(variant: Variant) -> Variant:
    """The variant with gd, and the fields that gd has too."""
    from miras_search.algorithm.gd import Gd

    old = variant.algorithm
    shared = {name: getattr(old, name) for name in Gd.model_fields if hasattr(old, name)}
    return variant.replace(algorithm=Gd(**shared))


@lru_cache(maxsize=4096)
def simplify(variant: Variant) -> Variant:
    """Apply identities until none changes anything."""
    changed = True
    while changed:
        changed = False
        for known in IDENTITIES:
            simpler = known.rewrite(variant)
            if simpler is not None:
                variant, changed = simpler, True
    return variant


@identity("lp with p = 2 is l2", bias={"kind": "lp", "p": 2.0})
def _(variant: Variant) -> Variant | None:
    from miras_search.bias.l2 import L2
    from miras_search.bias.lp import Lp

    bias = variant.bias
    return variant.replace(bias=L2()) if isinstance(bias, Lp) and bias.p == 2 else None


@identity("huber with an infinite threshold is l2", bias={"kind": "huber", "delta": math.inf})
def _(variant: Variant) -> Variant | None:
    from miras_search.bias.huber import Huber
    from miras_search.bias.l2 import L2

    bias = variant.bias
    unbounded = isinstance(bias, Huber) and bias.delta == math.inf
    return variant.replace(bias=L2()) if unbounded else None


@identity("l2 retention fixed at 1 is none", retention={"kind": "l2", "retention": 1.0})
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.l2 import L2
    from miras_search.retention.none import NoRetention

    gate = variant.retention
    keeps_all = isinstance(gate, L2) and gate.retention == 1
    return variant.replace(retention=NoRetention()) if keeps_all else None


@identity("momentum fixed at 0 is gd", algorithm={"kind": "momentum", "momentum": 0.0})
@identity("nesterov without momentum is gd", algorithm={"kind": "nesterov", "momentum": 0.0})
def _(variant: Variant) -> Variant | None:
    from miras_search.algorithm.momentum import Momentum
    from miras_search.algorithm.nesterov import Nesterov

    old = variant.algorithm
    return _as_gd(variant) if isinstance(old, Momentum | Nesterov) and old.momentum == 0 else None


@identity("multi_step of 1 is gd", algorithm={"kind": "multi_step", "n": 1})
def _(variant: Variant) -> Variant | None:
    from miras_search.algorithm.multi_step import MultiStep

    old = variant.algorithm
    return _as_gd(variant) if isinstance(old, MultiStep) and old.n == 1 else None


@identity("lp with p = 1 is l1", bias={"kind": "lp", "p": 1.0})
def _(variant: Variant) -> Variant | None:
    from miras_search.bias.l1 import L1
    from miras_search.bias.lp import Lp

    bias = variant.bias
    return variant.replace(bias=L1()) if isinstance(bias, Lp) and bias.p == 1 else None


@identity("elastic without l1 is l2", bias={"kind": "elastic", "mix": 0.0})
@identity("elastic without l2 is l1", bias={"kind": "elastic", "mix": 1.0})
def _(variant: Variant) -> Variant | None:
    from miras_search.bias.elastic import Elastic
    from miras_search.bias.l1 import L1
    from miras_search.bias.l2 import L2

    if not (isinstance(variant.bias, Elastic) and variant.bias.mix in (0, 1)):
        return None
    return variant.replace(bias=L1() if variant.bias.mix else L2())


@identity(
    "the bregman divergence of w^2 / 2 is none", retention={"kind": "bregman", "link": "identity"}
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.bregman import Bregman
    from miras_search.retention.none import NoRetention

    gate = variant.retention
    plain = isinstance(gate, Bregman) and gate.link == "identity"
    return variant.replace(retention=NoRetention()) if plain else None


@identity("lq with q = 2 is l2 retention", retention={"kind": "lq", "q": 2.0})
@identity("exact lq with q = 2 too", retention={"kind": "lq", "q": 2.0, "form": "exact"})
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.l2 import L2
    from miras_search.retention.lq import Lq

    gate = variant.retention
    if not (isinstance(gate, Lq) and gate.q == 2):
        return None
    return variant.replace(retention=L2(retention=gate.retention, per=gate.per))


@identity(
    "l2_local_global without a global term is none",
    retention={"kind": "l2_local_global", "ridge": 0.0},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.l2_local_global import L2LocalGlobal
    from miras_search.retention.none import NoRetention

    gate = variant.retention
    free = isinstance(gate, L2LocalGlobal) and gate.ridge == 0
    return variant.replace(retention=NoRetention()) if free else None


@identity(
    "the elastic net without sparsity is l2_local_global",
    retention={"kind": "elastic_net", "sparsity": 0.0},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.elastic_net import ElasticNet
    from miras_search.retention.l2_local_global import L2LocalGlobal

    gate = variant.retention
    if not (isinstance(gate, ElasticNet) and gate.form == "proximal" and gate.sparsity == 0):
        return None
    return variant.replace(retention=L2LocalGlobal(ridge=gate.ridge, per=gate.per))


@identity(
    "the ftrl elastic net without sparsity is none",
    retention={"kind": "elastic_net", "form": "ftrl", "sparsity": 0.0},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.elastic_net import ElasticNet
    from miras_search.retention.none import NoRetention

    gate = variant.retention
    free = isinstance(gate, ElasticNet) and gate.form == "ftrl" and gate.sparsity == 0
    return variant.replace(retention=NoRetention()) if free else None


@identity(
    "the ftrl elastic net has no ridge",
    retention={"kind": "elastic_net", "form": "ftrl", "ridge": 0.5, "per": "channel"},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.elastic_net import ElasticNet

    gate = variant.retention
    if not (isinstance(gate, ElasticNet) and gate.form == "ftrl"):
        return None
    simple = ElasticNet(form="ftrl", sparsity=gate.sparsity)
    return variant.replace(retention=simple) if gate != simple else None


@identity(
    "where the gradient does not look at the memory it is the same at the decayed one",
    bias="dot",
    retention={"kind": "l2", "at": "decayed"},
)
@identity(
    "an implicit step is taken at the decayed memory anyway",
    retention={"kind": "l2", "at": "decayed"},
    algorithm="implicit",
)
def _(variant: Variant) -> Variant | None:
    from miras_search.retention.l2 import L2

    gate = variant.retention
    idle = variant.gradient_is_constant or variant.algorithm.decays_first
    if not (isinstance(gate, L2) and gate.at == "decayed" and idle):
        return None
    return variant.replace(retention=gate.model_copy(update={"at": "old"}))


@identity(
    "a window of 1 weighs nothing",
    algorithm={"kind": "gd", "importance": "learned"},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.algorithm.descent import Windowed

    old = variant.algorithm
    if not (isinstance(old, Windowed) and old.window == 1 and old.importance != "data"):
        return None
    return variant.replace(algorithm=old.model_copy(update={"importance": "data"}))


@identity(
    "the mean over a chunk is the sum with a shorter step",
    algorithm={"kind": "gd", "average": True},
    chunk=4,
)
@identity(
    "a fixed step over a chunk is a shorter one",
    algorithm={"kind": "momentum", "average": True, "step": 0.5},
    chunk=4,
)
def _(variant: Variant) -> Variant | None:
    from miras_search.algorithm.descent import Descent

    old, chunk = variant.algorithm, variant.anchor_every
    if not (isinstance(old, Descent) and old.average):
        return None
    if not isinstance(old.step, str):
        shorter = {"step": old.step / chunk}
    else:
        longest = old.max_step or old.limit(chunk)
        if longest > 2:  # a step begins at half of its interval, but at 1 at most
            return None
        shorter = {"max_step": longest / chunk}
    return variant.replace(algorithm=old.model_copy(update={"average": False, **shorter}))


@identity(
    "a sum of dampened gradients is one of shorter steps",
    algorithm={"kind": "momentum", "order": 2, "dampening": True},
)
@identity(
    "nesterov's too",
    algorithm={"kind": "nesterov", "dampening": True, "momentum": 0.9, "per": "channel"},
)
@identity(
    "without momentum there is nothing to dampen",
    algorithm={"kind": "muon", "dampening": True, "momentum": 0.0},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.algorithm.descent import Accumulating
    from miras_search.algorithm.muon import Muon

    old = variant.algorithm
    if not (isinstance(old, Accumulating) and old.dampening):
        return None
    shorter = not isinstance(old, Muon) and isinstance(old.step, str)
    if old.momentum != 0 and (variant.retention.uses_step or not shorter):
        return None
    return variant.replace(algorithm=old.model_copy(update={"dampening": False}))


@identity(
    "rows of one entry have one column: per input is per head",
    memory="vector",
    retention={"kind": "l2", "per": "input", "retention": "learned"},
    algorithm={"kind": "gd", "per": "input", "step": "learned"},
)
def _(variant: Variant) -> Variant | None:
    changed = {
        axis: component.model_copy(update={"per": "head"})
        for axis, component in variant.axes().items()
        if getattr(component, "per", "head") == "input" and variant.memory.rows_of_one
    }
    return variant.replace(**changed) if changed else None


@identity(
    "a fixed coefficient is the same per head and per channel",
    retention={"kind": "l2", "retention": 0.9, "per": "channel"},
)
def _(variant: Variant) -> Variant | None:
    changed = {
        axis: component.model_copy(update={"per": "head"})
        for axis, component, coefficients in variant.coefficients_by_axis()
        if getattr(component, "per", "head") != "head"
        and any(c.per != "head" for c in coefficients)
        and all(c.fixed for c in coefficients if c.per != "head")
    }
    return variant.replace(**changed) if changed else None


@identity(
    "a fixed step has no upper end",
    algorithm={"kind": "gd", "step": 0.1, "max_step": 0.5},
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if isinstance(old.step, str) or old.max_step is None:
        return None
    return variant.replace(algorithm=old.model_copy(update={"max_step": None}))


@identity(
    "a max_step that is the default need not be given",
    algorithm={"kind": "gd", "max_step": 0.5},
    chunk=4,
)
def _(variant: Variant) -> Variant | None:
    old = variant.algorithm
    if old.max_step is None or old.max_step != old.limit(variant.anchor_every):
        return None
    return variant.replace(algorithm=old.model_copy(update={"max_step": None}))


@identity(
    "an mlp of depth 1 has no hidden layer: its expansion and activation do nothing",
    memory={"kind": "mlp", "depth": 1, "expansion": 2, "activation": "relu"},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.memory.mlp import Mlp

    memory = variant.memory
    if not (isinstance(memory, Mlp) and memory.depth == 1):
        return None
    simple = Mlp(depth=1, form=memory.form)
    return variant.replace(memory=simple) if memory != simple else None


@identity("a plain mlp of depth 1 is a matrix", memory={"kind": "mlp", "depth": 1, "form": "plain"})
def _(variant: Variant) -> Variant | None:
    from miras_search.memory.matrix import Matrix
    from miras_search.memory.mlp import Mlp

    memory = variant.memory
    is_matrix = isinstance(memory, Mlp) and memory.depth == 1 and memory.form == "plain"
    return variant.replace(memory=Matrix()) if is_matrix else None


@identity("a gradient that never looks at the memory is exact at any chunk", bias="dot", chunk=4)
def _(variant: Variant) -> Variant | None:
    idle = variant.chunk != 1 and variant.gradient_is_constant
    return variant.replace(chunk=1) if idle else None


@identity(
    "a memory that keeps pairs has no gradient: chunk, steps and initial weights do nothing",
    memory="attention",
    chunk=4,
    algorithm={"kind": "gd", "step": 0.1},
    initial_memory="zero",
)
def _(variant: Variant) -> Variant | None:
    if not variant.memory.grows:
        return None
    idle = type(variant.algorithm)()
    simple = variant.replace(algorithm=idle, chunk=1, initial_memory="learned")
    return simple if simple != variant else None


@identity(
    "a hybrid whose layers are all alike is lmm",
    memory="sliding_window",
    macro={"kind": "hybrid", "pattern": "MA", "window": 64},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.macro.lmm import Lmm

    macro = variant.macro
    if isinstance(macro, Lmm):
        return None
    layers = macro.layers(variant, macro.depth)
    alike = len({layer.canonical for layer in layers}) == 1
    return layers[0] if alike else None


@identity(
    "a pattern that repeats itself is the shorter one",
    macro={"kind": "hybrid", "pattern": "MAMA"},
)
def _(variant: Variant) -> Variant | None:
    from miras_search.macro.hybrid import Hybrid

    macro = variant.macro
    if not isinstance(macro, Hybrid):
        return None
    # A text that repeats itself stands in its own double before the middle.
    period = (macro.pattern * 2).index(macro.pattern, 1)
    if period == len(macro.pattern):
        return None
    return variant.replace(macro=Hybrid(pattern=macro.pattern[:period], window=macro.window))


@identity("the qk_norm that the memory prefers is what auto means", qk_norm="l2")
def _(variant: Variant) -> Variant | None:
    preferred = variant.qk_norm == variant.memory.preferred_qk_norm
    return variant.replace(qk_norm="auto") if preferred else None


@identity(
    "gate_rank does nothing where no coefficient is projected per channel or input", gate_rank=8
)
def _(variant: Variant) -> Variant | None:
    default = type(variant).model_fields["gate_rank"].default
    if variant.gate_rank == default:
        return None
    projected = any(c.per != "head" and c.source == "data" for c in variant.coefficients())
    return None if projected else variant.replace(gate_rank=default)

"""Retention gates that are special cases of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.identities.base import identity
from miras_search.retention.bregman import Bregman
from miras_search.retention.elastic_net import ElasticNet
from miras_search.retention.l2 import L2
from miras_search.retention.l2_local_global import L2LocalGlobal
from miras_search.retention.lq import Lq
from miras_search.retention.none import NoRetention

if TYPE_CHECKING:
    from miras_search.variant import Variant


@identity("l2 retention fixed at 1 is none", retention={"kind": "l2", "retention": 1.0})
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    keeps_all = isinstance(gate, L2) and gate.retention == 1
    return variant.replace(retention=NoRetention()) if keeps_all else None


@identity(
    "the bregman divergence of w^2 / 2 is none", retention={"kind": "bregman", "link": "identity"}
)
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    plain = isinstance(gate, Bregman) and gate.link == "identity"
    return variant.replace(retention=NoRetention()) if plain else None


@identity("lq with q = 2 is l2 retention", retention={"kind": "lq", "q": 2.0})
@identity("exact lq with q = 2 too", retention={"kind": "lq", "q": 2.0, "form": "exact"})
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    if not (isinstance(gate, Lq) and gate.q == 2):
        return None
    return variant.replace(retention=L2(retention=gate.retention, per=gate.per))


@identity(
    "l2_local_global without a global term is none",
    retention={"kind": "l2_local_global", "ridge": 0.0},
)
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    free = isinstance(gate, L2LocalGlobal) and gate.ridge == 0
    return variant.replace(retention=NoRetention()) if free else None


@identity(
    "the elastic net without sparsity is l2_local_global",
    retention={"kind": "elastic_net", "sparsity": 0.0},
)
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    if not (isinstance(gate, ElasticNet) and gate.form == "proximal" and gate.sparsity == 0):
        return None
    return variant.replace(retention=L2LocalGlobal(ridge=gate.ridge, per=gate.per))


@identity(
    "the ftrl elastic net without sparsity is none",
    retention={"kind": "elastic_net", "form": "ftrl", "sparsity": 0.0},
)
def _(variant: Variant) -> Variant | None:
    gate = variant.retention
    free = isinstance(gate, ElasticNet) and gate.form == "ftrl" and gate.sparsity == 0
    return variant.replace(retention=NoRetention()) if free else None


@identity(
    "the ftrl elastic net has no ridge",
    retention={"kind": "elastic_net", "form": "ftrl", "ridge": 0.5, "per": "channel"},
)
def _(variant: Variant) -> Variant | None:
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
    gate = variant.retention
    idle = variant.gradient_is_constant or variant.algorithm.decays_first
    if not (isinstance(gate, L2) and gate.at == "decayed" and idle):
        return None
    return variant.replace(retention=gate.model_copy(update={"at": "old"}))

"""Losses that are special cases of each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from miras_search.bias.elastic import Elastic
from miras_search.bias.huber import Huber
from miras_search.bias.l1 import L1
from miras_search.bias.l2 import L2
from miras_search.bias.lp import Lp
from miras_search.identities.base import identity

if TYPE_CHECKING:
    from miras_search.variant import Variant


@identity("lp with p = 2 is l2", bias={"kind": "lp", "p": 2.0})
def _(variant: Variant) -> Variant | None:
    bias = variant.bias
    return variant.replace(bias=L2()) if isinstance(bias, Lp) and bias.p == 2 else None


@identity("huber with an infinite threshold is l2", bias={"kind": "huber", "delta": math.inf})
def _(variant: Variant) -> Variant | None:
    bias = variant.bias
    unbounded = isinstance(bias, Huber) and bias.delta == math.inf
    return variant.replace(bias=L2()) if unbounded else None


@identity("lp with p = 1 is l1", bias={"kind": "lp", "p": 1.0})
def _(variant: Variant) -> Variant | None:
    bias = variant.bias
    return variant.replace(bias=L1()) if isinstance(bias, Lp) and bias.p == 1 else None


@identity("elastic without l1 is l2", bias={"kind": "elastic", "mix": 0.0})
@identity("elastic without l2 is l1", bias={"kind": "elastic", "mix": 1.0})
def _(variant: Variant) -> Variant | None:
    if not (isinstance(variant.bias, Elastic) and variant.bias.mix in (0, 1)):
        return None
    return variant.replace(bias=L1() if variant.bias.mix else L2())

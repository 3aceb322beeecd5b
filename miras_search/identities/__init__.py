"""Equal functions under different names, by the axis that they are about."""

from miras_search.identities import algorithm, bias, layer, memory, retention
from miras_search.identities.base import IDENTITIES, Identity, identity, simplify

__all__ = [
    "IDENTITIES",
    "Identity",
    "algorithm",
    "bias",
    "identity",
    "layer",
    "memory",
    "retention",
    "simplify",
]

"""Variants with one choice beside its companions: what tests of models and layers go over."""

from miras_search import registry
from miras_search.testing import variant_with
from miras_search.variant import Variant

DEEP = Variant.from_dict(
    {"memory": "mlp", "bias": "huber", "retention": "l2", "algorithm": "momentum"}
    | {"chunk": 4, "heads": 2}
)
"""A chain of matrices, a threshold, gates on two slots, a chunk."""

KINDS = [
    variant_with(cls(), chunk=4, heads=2)
    for axis in registry.AXES
    for cls in registry.kinds(axis).values()
]
"""Every kind of every axis."""

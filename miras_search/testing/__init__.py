"""Conformance suites for components: what the rest of the program relies on, as plain functions.

Every check takes a component (or a variant made of components) and raises AssertionError with a
sentence. They use no test runner, so that a package with components of its own can call them
from any:

    >>> from miras_search.testing import cases_of, check_bias
    >>> from miras_search.bias.lp import Lp
    >>> for bias in cases_of(Lp):
    ...     check_bias(bias)

`cases` and `variants` read the registry and the pydantic fields of what is registered, so that a
new kind, setting or option is tested without a list to edit.
"""

from miras_search.testing.algorithm import check_algorithm, check_retention
from miras_search.testing.bias import check_bias
from miras_search.testing.cases import (
    cases,
    cases_of,
    combinations,
    pairs,
    variant_with,
    variants,
)
from miras_search.testing.component import check_component
from miras_search.testing.inputs import (
    Inputs,
    Outputs,
    assert_equal,
    assert_same,
    close,
    make_inputs,
    run,
    with_gradients,
)
from miras_search.testing.layer import LAYER_CHECKS, check_layer, check_layer_gradients
from miras_search.testing.memory import check_memory
from miras_search.testing.variant import VARIANT_CHECKS, check_gradients, check_variant

CHECKS = {
    "memory": check_memory,
    "bias": check_bias,
    "retention": check_retention,
    "algorithm": check_algorithm,
}
"""The suite of each axis."""

__all__ = [
    "CHECKS",
    "LAYER_CHECKS",
    "VARIANT_CHECKS",
    "Inputs",
    "Outputs",
    "assert_equal",
    "assert_same",
    "cases",
    "cases_of",
    "check_algorithm",
    "check_bias",
    "check_component",
    "check_gradients",
    "check_layer",
    "check_layer_gradients",
    "check_memory",
    "check_retention",
    "check_variant",
    "close",
    "combinations",
    "make_inputs",
    "pairs",
    "run",
    "variant_with",
    "variants",
    "with_gradients",
]

"""The chunked form against the naive anchored loop: every legal combination and every setting."""

import pytest
import torch
from naive import memorize as naive

from miras_search import legality, registry
from miras_search.layer import memorize
from miras_search.testing import (
    assert_same,
    cases,
    combinations,
    make_inputs,
    pairs,
    run,
    variants,
)
from miras_search.variant import Variant

PAIRS = pairs(chunk=16)
VARIANTS = variants(chunk=4)
LENGTHS = (1, 63, 64, 65, 200)
DELTA = Variant.from_dict({"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"})
AFFINE = [
    variant
    for axis in registry.AXES
    for case in cases(axis)
    if not legality.reasons(variant := DELTA.replace(**{axis: case})) and variant.affine
]
"""The delta rule and linear attention, with every setting of each axis."""


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("variant", PAIRS, ids=str)
def test_chunked_against_the_naive_loop(variant, tokens):
    inputs = make_inputs(variant, tokens, seed=tokens)
    with torch.no_grad():
        one, two = (run(variant, inputs, "chunked", function=f) for f in (memorize, naive))
    assert_same(variant, inputs, one, two, f"chunk 16, {tokens} tokens")


@pytest.mark.parametrize("variant", PAIRS, ids=str)
def test_gradients_of_chunked_against_the_naive_loop(variant):
    inputs = make_inputs(variant, 35, seed=3)
    one, two = (
        run(variant, inputs, "chunked", gradients=True, function=f) for f in (memorize, naive)
    )
    assert_same(variant, inputs, one, two, "chunk 16, 35 tokens")


@pytest.mark.parametrize(
    ("chunk", "lowering"),
    [pytest.param(1, "reference", marks=pytest.mark.slow), (4, "chunked")],
)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_setting_against_the_naive_loop(variant, chunk, lowering):
    at = variant.replace(chunk=chunk)
    inputs = make_inputs(at, 11, seed=chunk)
    one, two = (run(at, inputs, lowering, gradients=True, function=f) for f in (memorize, naive))
    assert_same(variant, inputs, one, two, f"chunk {chunk}, {lowering}")


@pytest.mark.parametrize("variant", AFFINE, ids=str)
def test_one_system_a_tile_against_the_naive_loop(variant):
    """Every gradient at the memory before its token, over tiles of 16 or 64 and a part of one."""
    inputs = make_inputs(variant, 70, seed=5)
    one, two = (
        run(variant, inputs, "chunked", gradients=True, function=f) for f in (memorize, naive)
    )
    assert_same(variant, inputs, one, two, "70 tokens")


@pytest.mark.slow
@pytest.mark.parametrize("memory", registry.kinds("memory"))
def test_every_combination_against_the_naive_loop(memory):
    """The full product of kinds, with gradients, over two chunks and a part."""
    for variant in combinations(chunk=4):
        if variant.memory.kind != memory:
            continue
        inputs = make_inputs(variant, 9, seed=4)
        one, two = (
            run(variant, inputs, "chunked", gradients=True, function=f) for f in (memorize, naive)
        )
        assert_same(variant, inputs, one, two, str(variant))

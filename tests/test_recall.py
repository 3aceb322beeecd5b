"""Reading without a write is what a token reads just after its own write."""

import pytest
import torch
from often import often

from miras_search.layer import memorize, recall
from miras_search.testing import close, make_inputs, pairs
from miras_search.variant import Variant

CASES = [v for v in pairs(chunk=4, heads=2) if not v.memory.grows or v.memory.kept is None]


def variant_of(memory):
    axes = {"memory": memory, "bias": "l2", "retention": "none", "algorithm": "gd", "heads": 2}
    return Variant.from_dict(axes)


ATTENTION = variant_of("attention")
WINDOW = variant_of({"kind": "sliding_window", "window": 4})


@pytest.mark.parametrize("variant", often([*CASES[::2], ATTENTION], CASES), ids=str)
def test_the_last_token_is_recalled_again(variant):
    """At the state after it, under its own gates; the same for each of several queries."""
    inputs = make_inputs(variant, 7)
    y, state = memorize(variant, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights)
    last = inputs.map_tokens(lambda x: inputs.tokens(x, 6))
    found = recall(variant, last.q, inputs.v.shape[-1], last.gates, inputs.weights, state)
    close(found, y[:, 6:], f"{variant}: recalled")
    thrice = last.map_tokens(lambda x: x.repeat(1, 3, *[1] * (x.dim() - 2)))
    again = recall(variant, thrice.q, inputs.v.shape[-1], thrice.gates, inputs.weights, state)
    close(again, y[:, 6:].expand(-1, 3, -1, -1), f"{variant}: recalled three times")


def test_a_window_recalls_what_the_next_token_would_see():
    inputs = make_inputs(WINDOW, 7)
    _, state = memorize(WINDOW, inputs.q, inputs.k, inputs.v, {}, None)
    found = recall(WINDOW, inputs.q[:, :2], inputs.v.shape[-1], {}, None, state)
    scores = torch.einsum("bthk,bshk->bhts", inputs.q[:, :2], inputs.k[:, 4:]) / 2
    close(found, torch.einsum("bhts,bshv->bthv", scores.softmax(-1), inputs.v[:, 4:]), "window")


@pytest.mark.parametrize("variant", [ATTENTION, WINDOW], ids=str)
def test_nothing_is_recalled_before_the_first_pair(variant):
    q = make_inputs(variant, 3).q
    assert not recall(variant, q, 5, {}, None).any()
    assert recall(variant, q, 5, {}, None).shape == (*q.shape[:-1], 5)


def test_the_initial_memory_is_recalled_where_there_is_no_state():
    variant = variant_of("matrix")
    inputs = make_inputs(variant, 3)
    assert inputs.weights is not None
    found = recall(variant, inputs.q, inputs.v.shape[-1], inputs.gates, inputs.weights)
    (weights,) = inputs.weights.values()
    close(found, torch.einsum("hoi,bthi->btho", weights, inputs.q), "at the start", 1e-12)

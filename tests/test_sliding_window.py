"""Attention over a window, block by block, against attention under one mask."""

import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from miras_search.lower.attend import BLOCK, windowed
from miras_search.memory.sliding_window import SlidingWindow


def test_samples_and_heads_share_a_mask(monkeypatch):
    """A mask of their own for each would take more memory than full attention."""
    masks = []

    def spy(q, k, v, attn_mask, scale):
        masks.append(attn_mask.numel())
        return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr("miras_search.lower.attend.scaled_dot_product_attention", spy)
    x = torch.ones(7, 5, 3 * BLOCK, 2)
    windowed(x, x, x, window=4)
    assert masks == [3 * BLOCK * 2 * BLOCK]


@pytest.mark.parametrize("window", [1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_are_one_mask(window):
    """In value and gradient, for lengths about a block, and with pairs of earlier calls."""
    rng = torch.Generator().manual_seed(0)
    lengths = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3)
    for tokens, before in itertools.product(lengths, (0, 1, window - 1, window + BLOCK)):
        shapes = ((2, 3, tokens, 4), (2, 3, tokens + before, 4), (2, 3, tokens + before, 5))
        leaves = [
            torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes
        ]
        places = before + torch.arange(tokens)[:, None]
        ages = places - torch.arange(tokens + before)
        mask = (ages >= 0) & (ages < window)
        results = []
        for y in (
            scaled_dot_product_attention(*leaves, attn_mask=mask),
            SlidingWindow(window=window).read(*leaves),
        ):
            results.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_one_token_costs_one_read_of_the_window():
    """Not a block of queries of which one is asked for."""
    window, width = 1024, 8
    q, k = torch.ones(1, 1, 1, width), torch.ones(1, 1, window, width)
    # Where kernels are not told apart, products are counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        SlidingWindow(window=window).read(q, k, k)
    assert counter.get_total_flops() == 2 * 2 * window * width


def test_a_long_piece_needs_no_square():
    """A mask of 2^16 tokens squared would take 4 GB for booleans alone."""
    x = torch.ones(1, 1, 2**16, 1)
    with torch.profiler.profile(profile_memory=True) as profile:
        SlidingWindow(window=8).read(x, x, x)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < 2**28

"""Every macro architecture passes the conformance suite with every kind around it."""

import pytest
import torch
from alone import DEEP, KINDS
from often import often

from miras_search.macro.hybrid import Window
from miras_search.macro.lmm import Lmm
from miras_search.macro.mac import Mac
from miras_search.macro.mag import Mag
from miras_search.macro.mal import Mal
from miras_search.nn.attention import WindowAttention
from miras_search.nn.rotary import rotate
from miras_search.testing import LAYER_CHECKS, check_layer_gradients, pairs

LAYERS = (
    Lmm(persistent=3),
    Mac(segment=5, persistent=2),
    Mag(window=5, persistent=2),
    Mal(window=5, persistent=2),
    Window(window=5, persistent=2),
)
SETTINGS = (
    Mac(segment=1),
    Mac(segment=4, persistent=0),
    Mac(segment=64),
    Mag(window=2),
    Mag(persistent=0),
    Mal(persistent=0),
    Window(window=2, persistent=0),
)
CASES = [
    *((layer, DEEP) for layer in (*LAYERS, *SETTINGS)),
    *(
        (layer, DEEP.replace(**change))
        for layer in LAYERS
        for change in ({"conv": 0}, {"heads": 1})
    ),
    *((LAYERS[i % 4], variant) for i, variant in enumerate(KINDS)),
    *((LAYERS[1], variant) for variant in KINDS[::3]),
]
EVERY = [(layer, variant) for layer in LAYERS[:4] for variant in pairs(chunk=4, heads=2)]


def named(case):
    return f"{case[0]} of {case[1]}"


@pytest.mark.parametrize("case", often(CASES[::2], [*CASES, *EVERY]), ids=named)
def test_layer(case):
    for check in LAYER_CHECKS:
        check(*case)


@pytest.mark.parametrize(
    "case", often([(layer, DEEP) for layer in LAYERS], [*CASES, *EVERY]), ids=named
)
def test_numerical_gradients(case):
    check_layer_gradients(*case)


def by_hand(q, k, v, window, always):
    """Attention of one head, token by token: (distance-matched) pairs and persistent ones."""
    outputs = []
    for t in range(len(q)):
        first = max(0, t - window + 1)
        turned = rotate(q, 0)[t] @ rotate(k, 0)[first : t + 1].T
        scores = torch.cat([q[t] @ always[0].T, turned]) / q.shape[1] ** 0.5
        outputs.append(scores.softmax(0) @ torch.cat([always[1], v[first : t + 1]]))
    return torch.stack(outputs)


@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_window_attention_is_its_definition(window, persistent):
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, window, persistent).double()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    heads = layer.attention
    q, (k, v) = heads.queries(x)[0], heads.pairs(x)
    first = x.new_zeros(0, 6) if layer.persistent is None else layer.persistent
    always = heads.pairs(first[None])
    expected = torch.stack(
        [
            by_hand(q[h], k[0, h], v[0, h], window, [z[0, h] for z in always])
            for h in range(heads.heads)
        ]
    )
    torch.testing.assert_close(layer(x)[0], heads.merge(expected[None]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_rotated_products_depend_on_the_distance_alone(width):
    q, k = torch.randn(2, 1, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(i, j):
        return (rotate(q, i) * rotate(k, j)).sum()

    for shift in (0, 3, 10_000_000):
        torch.testing.assert_close(product(5 + shift, 2 + shift), product(5, 2), rtol=0, atol=1e-8)
    assert rotate(q, 7).norm().allclose(q.norm())
    if width > 1:
        assert not product(5, 2).allclose(product(6, 2), rtol=0, atol=1e-6)

"""The conformance suite of a memory architecture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad

from miras_search.memory.base import GrowingMemory, Memory, ParametricMemory
from miras_search.testing.component import check_component
from miras_search.testing.inputs import close

WIDTHS = ((4, 4), (4, 6), (6, 4))
"""Key and value widths that are tried; those a memory refuses are left out."""


def check_memory(memory: Memory) -> None:
    """A memory of either form keeps its promises to the lowerings."""
    check_component(memory)
    assert memory.check(*WIDTHS[0]) is None, f"{memory} refuses equal widths"
    if isinstance(memory, ParametricMemory):
        for key_width, value_width in WIDTHS:
            if memory.check(key_width, value_width) is None:
                check_maps(memory, key_width, value_width)
        check_memory_facts(memory)
        check_positions_are_independent(memory)
    else:
        assert isinstance(memory, GrowingMemory), f"{memory} is of no known form"
        check_growing(memory)


def check_maps(memory: ParametricMemory, key_width: int, value_width: int) -> None:
    """`apply` meets every matrix of `matrices` once, with what that matrix takes."""
    shapes = memory.matrices(key_width, value_width)
    called: list[str] = []

    def recorded(name: str, x: Tensor) -> Tensor:
        called.append(name)
        assert x.shape == (2, 3, shapes[name][1]), (
            f"{memory} hands {tuple(x.shape)} to {name}, which takes {shapes[name][1]} channels"
        )
        return x @ _weights(memory, key_width, value_width)[name].mT

    maps = {name: lambda x, name=name: recorded(name, x) for name in shapes}
    y = memory.apply(maps, _keys(2, 3, key_width))
    assert sorted(called) == sorted(shapes), f"{memory} calls {called}: expected each once"
    assert y.shape == (2, 3, value_width), f"{memory} gives {tuple(y.shape)}"
    assert y.isfinite().all(), f"{memory} is not finite"


def check_memory_facts(memory: ParametricMemory) -> None:
    """`linear` and `learns_from_zero` are what is measured; everything is finite at zero."""
    weights = _weights(memory)
    shapes = memory.matrices(*WIDTHS[0])
    x = _keys(3, WIDTHS[0][0])
    one_matrix = list(shapes) == ["W"] or len(shapes) == 1
    wide = all(width == WIDTHS[0][0] for _, width in shapes.values())
    product = (one_matrix and wide) and torch.allclose(
        _recall(memory, weights, x), x @ next(iter(weights.values())).mT
    )
    assert product == memory.is_map, f"{memory}: M(x) = W x is {product}, is_map {memory.is_map}"
    recalled = [_recall(memory, {n: by * w for n, w in weights.items()}, x) for by in (0, 1, 2)]
    affine = one_matrix and torch.allclose(recalled[2] - recalled[1], recalled[1] - recalled[0])
    assert affine == memory.linear, (
        f"{memory}: affine in its one matrix is {affine}, linear {memory.linear}"
    )
    rows = max(width for _, width in shapes.values()) == 1
    assert rows == memory.rows_of_one, f"{memory}: rows_of_one is {memory.rows_of_one}"

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return (_recall(memory, weights, x) * _keys(3, WIDTHS[0][1], seed=2)).sum()

    zero = {name: torch.zeros_like(w) for name, w in weights.items()}
    gradient = grad(loss)(zero)
    for name, g in gradient.items():
        assert g.isfinite().all(), f"{memory}: the gradient of {name} is not finite at zero"
    learns = all(g.abs().max() > 0 for g in gradient.values())
    assert learns == memory.learns_from_zero, (
        f"{memory}: at zero {'every' if learns else 'not every'} matrix has a gradient, "
        f"learns_from_zero is {memory.learns_from_zero}"
    )
    for name, g in grad(loss)(weights).items():
        assert g.abs().max() > 0, f"{memory}: {name} has no gradient, so it is never written"


def check_positions_are_independent(memory: ParametricMemory) -> None:
    """What is poisoned at one position stays there: tokens meet in the weights alone."""
    weights, x = _weights(memory), _keys(2, 3, WIDTHS[0][0])
    broken = x.clone()
    broken[0, 1], broken[1] = float("nan"), float("nan")
    clean, poisoned = (_recall(memory, weights, z)[0, [0, 2]] for z in (x, broken))
    close(poisoned, clean, f"{memory}: beside a poisoned position")


def check_growing(memory: GrowingMemory) -> None:
    """Reading the last T tokens at once is reading them one at a time from what is kept so far."""
    kept, (key_width, value_width) = 7, WIDTHS[0]
    k, v = (_keys(2, 2, kept, n, seed=i) for i, n in enumerate((key_width, value_width)))
    q = _keys(2, 2, kept, key_width, seed=2)
    single = [
        memory.read(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1]) for t in range(kept)
    ]
    expected = torch.cat(single, dim=2)
    if memory.kept is not None:
        for t in range(kept):
            start = max(0, t - memory.kept)
            y = memory.read(q[:, :, t : t + 1], k[:, :, start : t + 1], v[:, :, start : t + 1])
            close(y, expected[:, :, t : t + 1], f"{memory}: from the last {memory.kept} pairs")
    assert expected.shape == v.shape, f"{memory} reads {tuple(expected.shape)}"
    for last in range(1, kept + 1):
        y = memory.read(q[:, :, -last:], k, v)
        close(y, expected[:, :, -last:], f"{memory}: the last {last} of {kept} tokens")


def _recall(memory: ParametricMemory, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return memory.apply({n: lambda h, w=w: h @ w.mT for n, w in weights.items()}, x)


def _weights(
    memory: ParametricMemory, key_width: int = WIDTHS[0][0], value_width: int = WIDTHS[0][1]
) -> dict[str, Tensor]:
    shapes = memory.matrices(key_width, value_width)
    return {name: _keys(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def _keys(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)

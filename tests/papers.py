"""What the tests of published models share: the variant of a file, random leaves and one call.

The equations stand in the test modules. One sequence, one head, float64; leaves are plain tensors
by name, and gradients flow through all of them.
"""

import pytest
import torch
from torch.nn import functional

from miras_search.layer import memorize
from miras_search.nn.features import PolynomialFeatures, feature_width
from miras_search.shipped import PUBLISHED
from miras_search.space import Space

T, K = 21, 4
LOWERINGS = pytest.mark.parametrize("lowering", ["reference", "chunked"])
# Where rounding grows little: signs and norms of nearly constant vectors magnify it over T steps.
RANGES = {
    "step": (0.02, 0.12),
    "retention": (0.9, 1.0),
    "momentum": (0.1, 0.6),
    "delta": (0.4, 1.2),
    "importance": (0.2, 1.0),
    "damping": (0.5, 1.5),
}


def published(name, chunk=None):
    """The only variant of a file of spaces/published, at a smaller chunk."""
    (variant,) = Space.load(PUBLISHED / f"{name}.yaml").enumerate()
    return variant if chunk is None else variant.replace(chunk=chunk)


def equation(equations, **gates):
    """Enter a function under the name of its file, with the gates that its paper has.

    Each gate is one number for each head, or for each channel or input of a matrix.
    """

    def enter(function):
        equations[function.__name__] = (function, gates)
        return function

    return enter


def gates_per(variant):
    """The gates of a variant, as `equation` is told those of a paper."""
    return {c.name: c.per for c in variant.coefficients() if not c.fixed}


def names_and_chunks(equations):
    """Chunk 1, and a longer one where the paper has chunks or where they change nothing."""
    found = []
    for name in equations:
        variant = published(name)
        idle = not variant.memory.grows and variant.gradient_is_constant
        found += [(name, chunk) for chunk in ((1, 8) if idle or variant.chunk > 1 else (1,))]
    return found


def shapes_of(variant):
    """The (out, in) shape of each matrix; keys are as wide as their features."""
    width = feature_width(K, variant.degree)
    return {} if variant.memory.grows else variant.memory.matrices(width, K)


def gates_of(variant):
    """Each coefficient that is not fixed, the name of its gate, and its channels (None for one).

    A gate of rows or columns is own to its matrix, "step.W1", if there is more than one.
    """
    shapes = shapes_of(variant)
    for c in variant.coefficients():
        if c.fixed:
            continue
        if c.per == "head" or c.acts_on == "output":
            yield c, c.name, None if c.per == "head" else K
            continue
        for m, (out, width) in shapes.items():
            name = c.name if len(shapes) == 1 else f"{c.name}.{m}"
            yield c, name, out if c.per == "channel" else width


def leaves(variant, seed=1):
    """q, k and v of length about 1, the gates a variant wants, small steps, and its matrices.

    A learned gate is one number for all tokens. Retention acts once a token, whatever its writes.
    """
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    writes, x = variant.algorithm.writes, {}
    for name, rows in {"q": T, "k": T * writes, "v": T * writes}.items():
        x[name] = functional.normalize(rand(rows, K) - 0.5, dim=-1) * (0.8 + 0.4 * rand(rows, 1))
    for c, name, channels in gates_of(variant):
        low, high = RANGES[c.name]
        rows = T if c.neutral is not None else T * writes
        tokens = (rows,) if c.source == "data" else ()
        x[name] = low + (high - low) * rand(*tokens, *(() if channels is None else (channels,)))
    for name, shape in shapes_of(variant).items():
        x[name] = 2 * (rand(*shape) - 0.5)
    return {name: tensor.requires_grad_() for name, tensor in x.items()}


def memory(variant, x, lowering="auto"):
    """`memorize` on the leaves: features of q and k, gates and matrices as it wants them."""
    q, k = x["q"], x["k"]
    if variant.degree > 1:
        features = PolynomialFeatures(1, K, variant.degree).double()
        q, k = (features(z[:, None])[:, 0] for z in (q, k))
    gates = {}
    for c, name, channels in gates_of(variant):
        gate, shape = x[name], () if channels is None else (channels,)
        if c.source == "learned":
            gate = gate.expand(T, *shape)
        elif c.neutral is not None and variant.algorithm.writes > 1:
            idle = torch.full_like(gate, c.neutral)
            gate = torch.stack([gate, *[idle] * (variant.algorithm.writes - 1)], 1).flatten(0, 1)
        gates[name] = gate[None, :, None]
    weights = {m: variant.retention.feasible(x[m])[None] for m in shapes_of(variant)}
    q, k, v = (z[None, :, None] for z in (q, k, x["v"]))
    y, _ = memorize(variant, q, k, v, gates, weights, None, lowering)
    return y[0, :, 0]


def assert_same(actual, expected, x):
    """Outputs and the gradients of every leaf to 1e-8."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    of_one, of_two = (
        torch.autograd.grad((y * weight).sum(), list(x.values()), materialize_grads=True)
        for y in (actual, expected)
    )
    for name, a, b in zip(x, of_one, of_two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")

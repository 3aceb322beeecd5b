"""Update rules as their papers print them, written out for one sequence and one head.

Each loop stands for itself: it takes plain tensors, no gate mapping and no state, and gradients
flow through all of it.
"""

import math

import pytest
import torch
from torch.nn import functional

from miras_search.layer import memorize
from miras_search.variant import Variant

T, K = 21, 4


def leaves(*, matrices=None, seed=0):
    """q, k, v, step, retention, momentum, delta and matrices as leaves; unit keys, small steps."""
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    q, k, v = (functional.normalize(rand(T, K) - 0.5, dim=-1) for _ in range(3))
    x = {"q": q, "k": k, "v": v, "step": 0.05 + 0.2 * rand(T), "retention": 0.7 + 0.3 * rand(T)}
    x |= {"momentum": 0.1 + 0.5 * rand(T), "delta": 0.4 + 0.8 * rand(T)}
    for name, shape in (matrices or {"W": (K, K)}).items():
        x[name] = 2 * (rand(*shape) - 0.5)
    return {name: tensor.requires_grad_() for name, tensor in x.items()}


def memory(variant, x, lowering="auto"):
    """`memorize` on the same leaves: one sample, one head."""
    variant = Variant.from_dict(variant)
    gates = {c.name: x[c.name][None, :, None] for c in variant.coefficients() if not c.fixed}
    names = [] if variant.memory.grows else variant.memory.matrices(K, K)
    q, k, v = (x[name][None, :, None] for name in "qkv")
    weights = {name: x[name][None] for name in names}
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


LOWERINGS = pytest.mark.parametrize("lowering", ["reference", "chunked"])


@LOWERINGS
def test_against_linear_attention(lowering):
    """Katharopoulos et al. 2006.16236, without normaliser: Y = tril(Q K^T) V."""
    x = leaves()
    choice = {"bias": "dot", "retention": "none", "algorithm": {"kind": "gd", "step": 1.0}}
    y = memory({"memory": "matrix", **choice}, x, lowering)
    assert_same(y, x["q"] @ x["W"].T + (x["q"] @ x["k"].T).tril() @ x["v"], x)


@LOWERINGS
def test_against_retnet(lowering):
    """RetNet 2307.08621, eq 5: Y = (Q K^T * D) V with D_ti = a^(t-i)."""
    x, a = leaves(), 1 - 2**-5
    t = torch.arange(T, dtype=torch.float64)
    decay = (a ** (t[:, None] - t)).tril()
    choice = {"bias": "dot", "algorithm": {"kind": "gd", "step": 1.0}}
    choice["retention"] = {"kind": "l2", "retention": a}
    y = memory({"memory": "matrix", **choice}, x, lowering)
    start = a ** (t[:, None] + 1) * (x["q"] @ x["W"].T)
    assert_same(y, start + (x["q"] @ x["k"].T * decay) @ x["v"], x)


@LOWERINGS
def test_against_gated_linear_attention(lowering):
    """Mamba-2 2405.21060: W_t = a_t W_{t-1} + e_t v k^T."""
    x = leaves()
    w, rows = x["W"], []
    for t in range(T):
        w = x["retention"][t] * w + x["step"][t] * torch.outer(x["v"][t], x["k"][t])
        rows.append(w @ x["q"][t])
    choice = {"memory": "matrix", "bias": "dot", "retention": "l2", "algorithm": "gd"}
    assert_same(memory(choice | {"chunk": 4}, x, lowering), torch.stack(rows), x)


@LOWERINGS
def test_against_delta_rule(lowering):
    """DeltaNet 2406.06484: W_t = W_{t-1} (I - e k k^T) + e v k^T."""
    x = leaves()
    w, rows = x["W"], []
    for e, q, k, v in zip(x["step"], x["q"], x["k"], x["v"], strict=True):
        w = w @ (torch.eye(K, dtype=torch.float64) - e * torch.outer(k, k)) + e * torch.outer(v, k)
        rows.append(w @ q)
    choice = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
    assert_same(memory(choice, x, lowering), torch.stack(rows), x)


def test_decay_is_not_that_of_gated_delta_net():
    """Titans takes the error at the undecayed memory, 2412.06464 (eq 10) at the decayed one."""
    x = leaves()
    w, titans, gated = x["W"], [], []
    other = w
    eye = torch.eye(K, dtype=torch.float64)
    for a, e, q, k, v in zip(*(x[n] for n in ("retention", "step", "q", "k", "v")), strict=True):
        w = w @ (a * eye - e * torch.outer(k, k)) + e * torch.outer(v, k)
        other = a * other @ (eye - e * torch.outer(k, k)) + e * torch.outer(v, k)
        titans.append(w @ q)
        gated.append(other @ q)
    choice = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
    y = memory(choice, x)
    assert_same(y, torch.stack(titans), x)
    assert (y - torch.stack(gated)).abs().max() > 0.01


def deep(x, z):
    """The memory of Titans' camera-ready: z + LN(W2 gelu(W1 z))."""
    return z + functional.layer_norm(x["W2"] @ functional.gelu(x["W1"] @ z), (K,))


MATRICES = {"W1": (4 * K, K), "W2": (K, 4 * K)}


@LOWERINGS
@pytest.mark.parametrize("chunk", [1, 8])
def test_against_titans(lowering, chunk):
    """Titans 2501.00663, eq 9-16: momentum, forgetting, gradients at the chunk's start."""
    x = leaves(matrices=MATRICES)
    w = {name: x[name] for name in MATRICES}
    s, rows = {name: torch.zeros_like(w[name]) for name in w}, []
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        loss = 0.5 * (deep(start, x["k"][t]) - x["v"][t]).square().sum()
        grads = torch.autograd.grad(loss, [start[name] for name in MATRICES], create_graph=True)
        for name, g in zip(MATRICES, grads, strict=True):
            s[name] = x["momentum"][t] * s[name] - x["step"][t] * g
            w[name] = x["retention"][t] * w[name] + s[name]
        rows.append(deep(w, x["q"][t]))
    choice = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
    assert_same(memory(choice | {"chunk": chunk}, x, lowering), torch.stack(rows), x)


@LOWERINGS
@pytest.mark.parametrize("chunk", [1, 8])
def test_against_yaad(lowering, chunk):
    """MIRAS 2504.13173, eq 26: g_l2 if ||r|| <= delta_t, else delta_t g_l1, and Titans' decay."""
    x = leaves(matrices=MATRICES)
    w, rows, clipped = {name: x[name] for name in MATRICES}, [], 0
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        r = deep(start, x["k"][t]) - x["v"][t]
        if r.norm() <= x["delta"][t]:
            loss = 0.5 * (r * r).sum()
        else:
            loss, clipped = x["delta"][t] * torch.sqrt(r * r + 1e-6).sum(), clipped + 1
        grads = torch.autograd.grad(loss, [start[name] for name in MATRICES], create_graph=True)
        for name, g in zip(MATRICES, grads, strict=True):
            w[name] = x["retention"][t] * w[name] - x["step"][t] * g
        rows.append(deep(w, x["q"][t]))
    assert clipped > 0
    choice = {"memory": "mlp", "bias": "huber", "retention": "l2", "algorithm": "gd"}
    assert_same(memory(choice | {"chunk": chunk}, x, lowering), torch.stack(rows), x)


@LOWERINGS
def test_against_moneta_bias(lowering):
    """MIRAS 2504.13173, eq 11, less the factor p: g = sign(r) |r|^(p-1) k^T."""
    x = leaves()
    w, rows = x["W"], []
    for e, q, k, v in zip(x["step"], x["q"], x["k"], x["v"], strict=True):
        r = w @ k - v
        w = w - e * torch.outer(r.sign() * r.abs() ** 2, k)
        rows.append(w @ q)
    choice = {"memory": "matrix", "bias": {"kind": "lp", "p": 3.0}}
    y = memory(choice | {"retention": "none", "algorithm": "gd"}, x, lowering)
    assert_same(y, torch.stack(rows), x)


@LOWERINGS
def test_against_ttt(lowering):
    """TTT 2407.04620, eq 4-7 (dual form): a mini-batch shares the weights it began with."""
    x, b = leaves(), 7
    w, rows = x["W"], []
    for q, k, v, e in zip(*(x[n].split(b) for n in ("q", "k", "v", "step")), strict=True):
        error = e[:, None] * (k @ w.T - v)
        rows.append(q @ w.T - (q @ k.T).tril() @ error)
        w = w - error.T @ k
    choice = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
    assert_same(memory(choice | {"chunk": b}, x, lowering), torch.cat(rows), x)


@LOWERINGS
def test_against_softmax_attention(lowering):
    """Vaswani et al. 1706.03762, eq 1, with a causal mask."""
    x = leaves()
    choice = {"memory": "attention", "bias": "l2", "retention": "none", "algorithm": "gd"}
    y = memory(choice, x, lowering)
    q, k, v = (x[name] for name in "qkv")
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    score = (q @ k.T / math.sqrt(K)).masked_fill(hidden, -math.inf)
    fused = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    torch.testing.assert_close(y, fused, rtol=0, atol=1e-8)
    assert_same(y, score.softmax(-1) @ v, x)

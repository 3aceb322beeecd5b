"""Published models with a perceptron for a memory, written out from their papers.

Each loop stands for itself and is named after its file. Gradients are taken at the memory as it was
at the start of the chunk, what is kept moves token by token, and a token reads after its write.
Squared errors have the factor 1/2 of MIRAS; where a paper has none, its step is half of ours.
"""

import pytest
import torch
from papers import (
    LOWERINGS,
    K,
    T,
    assert_same,
    equation,
    gates_per,
    leaves,
    memory,
    names_and_chunks,
    published,
)
from torch.nn.functional import gelu, layer_norm

EQUATIONS = {}


def around(z, y):
    """z + LN(y), with neither scale nor shift."""
    return z + layer_norm(y, (K,))


def deep(w, z):
    """The memory of Titans' camera-ready and of MIRAS: z + LN(W2 gelu(W1 z))."""
    return around(z, w["W2"] @ gelu(w["W1"] @ z))


def plain(w, z):
    """The memory of Atlas, eq 42, on features and without its residual: W2 gelu(W1 phi(z))."""
    return w["W2"] @ gelu(w["W1"] @ phi(z))


def phi(z):
    """Atlas 2505.23735, eq 5: the monomials of degree 2, 1 and 0 with coefficients 1/i!."""
    one = [*z, torch.ones_like(z[0])]
    pairs = [(i, j) for i in range(K + 1) for j in range(i, K + 1)]
    return torch.stack([one[i] * one[j] / (2 if j < K else 1) for i, j in pairs])


def squared(y, v):
    return 0.5 * (y - v).square().sum()


def gradients(loss, w):
    """Of every matrix, in a graph that can be differentiated again."""
    found = torch.autograd.grad(loss, list(w.values()), create_graph=True)
    return dict(zip(w, found, strict=True))


@equation(EQUATIONS, step="head")
def ttt_linear(x, chunk):
    """TTT 2407.04620, eq 4-7: a mini-batch shares the weights it began with; x + LN(W x)."""
    w, rows = {"W1": x["W1"]}, []
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        recalled = around(x["k"][t], start["W1"] @ x["k"][t])
        g = gradients(squared(recalled, x["v"][t]), start)
        w = {"W1": w["W1"] - x["step"][t] * g["W1"]}
        rows.append(around(x["q"][t], w["W1"] @ x["q"][t]))
    return torch.stack(rows)


@equation(EQUATIONS, step="head")
def ttt_mlp(x, chunk):
    """TTT 2407.04620, eq 4-7, with two layers."""
    w, rows = {m: x[m] for m in ("W1", "W2")}, []
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        g = gradients(squared(deep(start, x["k"][t]), x["v"][t]), start)
        w = {m: w[m] - x["step"][t] * g[m] for m in w}
        rows.append(deep(w, x["q"][t]))
    return torch.stack(rows)


@equation(EQUATIONS, retention="channel", step="channel", momentum="channel")
def titans_lmm(x, chunk):
    """Titans 2501.00663, eq 9-16: momentum, forgetting, gradients at the chunk's start."""
    w, rows = {m: x[m] for m in ("W1", "W2")}, []
    s = {m: torch.zeros_like(w[m]) for m in w}
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        g = gradients(squared(deep(start, x["k"][t]), x["v"][t]), start)
        for m in w:
            s[m] = x[f"momentum.{m}"][t, :, None] * s[m] - x[f"step.{m}"][t, :, None] * g[m]
            w[m] = x[f"retention.{m}"][t, :, None] * w[m] + s[m]
        rows.append(deep(w, x["q"][t]))
    return torch.stack(rows)


@equation(EQUATIONS, delta="channel", retention="channel", step="channel")
def yaad(x, chunk):
    """MIRAS 2504.13173, eq 26: g_l2 if ||r|| <= delta_t, else delta_t g_l1, and Titans' decay.

    Each channel compares the same ||r|| with a delta of its own.
    """
    w, rows, outside = {m: x[m] for m in ("W1", "W2")}, [], 0
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        r, delta = deep(start, x["k"][t]) - x["v"][t], x["delta"][t]
        absolute = torch.sqrt(r * r + 1e-6)  # remark 5
        g = gradients(torch.where(r.norm() <= delta, 0.5 * r * r, delta * absolute).sum(), start)
        outside += (r.norm() > delta).sum()
        for m in w:
            w[m] = x[f"retention.{m}"][t, :, None] * w[m] - x[f"step.{m}"][t, :, None] * g[m]
        rows.append(deep(w, x["q"][t]))
    assert 0 < outside < T * K
    return torch.stack(rows)


@equation(EQUATIONS, retention="channel", step="channel")
def moneta(x, chunk):
    """MIRAS 2504.13173, eq 24-25: A_t = a_t A_{t-1} - e_t g, W_t = A_t / ||A_t||_4^2.

    g is that of ||r||_3^3 less its factor 3. A_0 is what shows W_0.
    """

    def shown(a):
        return {m: a[m] / torch.linalg.vector_norm(a[m], 4) ** 2 for m in a}

    w = {m: x[m] for m in ("W1", "W2")}
    a, rows = shown(w), []
    for m, back in shown(a).items():
        torch.testing.assert_close(back, w[m])
    for t in range(T):
        if t % chunk == 0:
            start = shown(a)
        r = deep(start, x["k"][t]) - x["v"][t]
        g = gradients(r.abs().pow(3).sum() / 3, start)
        for m in a:
            a[m] = x[f"retention.{m}"][t, :, None] * a[m] - x[f"step.{m}"][t, :, None] * g[m]
        rows.append(deep(shown(a), x["q"][t]))
    return torch.stack(rows)


@equation(EQUATIONS, retention="channel", step="channel")
def memora(x, chunk):
    """MIRAS 2504.13173, eq 27: W_t = n softmax(a_t log W_{t-1} - e_t g), rows of n entries.

    W_0 is a softmax too, of free numbers.
    """

    def rows_of(a):
        return a.shape[1] * torch.softmax(a, -1)

    w, rows = {m: rows_of(x[m]) for m in ("W1", "W2")}, []
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        g = gradients(squared(deep(start, x["k"][t]), x["v"][t]), start)
        for m in w:
            a, e = (x[f"{name}.{m}"][t, :, None] for name in ("retention", "step"))
            w[m] = rows_of(a * torch.log(w[m]) - e * g[m])
        rows.append(deep(w, x["q"][t]))
    return torch.stack(rows)


def omega(start, x, t):
    """Atlas 2505.23735, eq 9: sum over i = t-3 .. t of gamma_i ||M(phi(k_i)) - v_i||^2 / 2."""
    return sum(
        x["importance"][i] * squared(plain(start, x["k"][i]), x["v"][i])
        for i in range(max(0, t - 3), t + 1)
    )


@equation(EQUATIONS, retention="head", step="head", importance="head")
def omeganet(x, chunk):
    """Atlas 2505.23735, eq 10 and 16: W_t = a_t W_{t-1} - e_t g, g the gradient of a window."""
    w, rows = {m: x[m] for m in ("W1", "W2")}, []
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        g = gradients(omega(start, x, t), start)
        w = {m: x["retention"][t] * w[m] - x["step"][t] * g[m] for m in w}
        rows.append(plain(w, x["q"][t]))
    return torch.stack(rows)


def newton_schulz(s):
    """Jordan et al. 2024: five steps of the odd quintic, from a Frobenius norm of 1."""
    s = s / torch.sqrt(s.square().sum() + 1e-12)
    for _ in range(5):
        square = s @ s.T
        s = 3.4445 * s - 4.7750 * square @ s + 2.0315 * square @ square @ s
    return s


@equation(EQUATIONS, retention="head", step="head", importance="head", momentum="head")
def atlas(x, chunk):
    """Atlas 2505.23735, eq 32-33: S_t = b_t S_{t-1} + g_t, W_t = a_t W_{t-1} - e_t NS5(S_t)."""
    w, rows = {m: x[m] for m in ("W1", "W2")}, []
    s = {m: torch.zeros_like(w[m]) for m in w}
    for t in range(T):
        if t % chunk == 0:
            start = dict(w)
        g = gradients(omega(start, x, t), start)
        s = {m: x["momentum"][t] * s[m] + g[m] for m in w}
        w = {m: x["retention"][t] * w[m] - x["step"][t] * newton_schulz(s[m]) for m in w}
        rows.append(plain(w, x["q"][t]))
    return torch.stack(rows)


@LOWERINGS
@pytest.mark.parametrize(("name", "chunk"), names_and_chunks(EQUATIONS))
def test_published_deep_memory(name, chunk, lowering):
    variant, (outputs, gates) = published(name, chunk), EQUATIONS[name]
    assert gates_per(variant) == gates
    x = leaves(variant)
    assert_same(memory(variant, x, lowering), outputs(x, chunk), x)

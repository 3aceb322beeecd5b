"""Published models with a matrix or with kept pairs for a memory, written out from their papers.

Each loop stands for itself and is named after its file: it takes plain tensors, no gate mapping and
no state. A chunk does nothing where the gradient does not look at the memory.
"""

import math

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
from torch import outer
from torch.nn import functional

EQUATIONS = {}
EYE = torch.eye(K, dtype=torch.float64)


@equation(EQUATIONS)
def linear_attention(x):
    """Katharopoulos et al. 2006.16236, without feature map and normaliser: Y = tril(Q K^T) V."""
    return x["q"] @ x["W"].T + (x["q"] @ x["k"].T).tril() @ x["v"]


@equation(EQUATIONS)
def softmax_attention(x):
    """Vaswani et al. 1706.03762, eq 1, with a causal mask."""
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    score = (x["q"] @ x["k"].T / math.sqrt(K)).masked_fill(hidden, -math.inf)
    return score.softmax(-1) @ x["v"]


@equation(EQUATIONS, retention="head")
def retnet(x):
    """RetNet 2307.08621, eq 5: Y = (Q K^T * D) V with D_ti = a^(t-i)."""
    t = torch.arange(T, dtype=torch.float64)
    decay = (x["retention"] ** (t[:, None] - t).clamp(min=0)).tril()
    start = x["retention"] ** (t[:, None] + 1) * (x["q"] @ x["W"].T)
    return start + (x["q"] @ x["k"].T * decay) @ x["v"]


@equation(EQUATIONS, retention="input")
def gla(x):
    """GLA 2312.06635, section 4.1: W_t = W_{t-1} diag(a_t) + v k^T."""
    w, rows = x["W"], []
    for a, q, k, v in zip(*(x[n] for n in ("retention", "q", "k", "v")), strict=True):
        w = w @ torch.diag(a) + outer(v, k)
        rows.append(w @ q)
    return torch.stack(rows)


@equation(EQUATIONS, retention="head", step="head")
def mamba2(x):
    """Mamba-2 2405.21060, eq 2 with a scalar A_t: W_t = a_t W_{t-1} + e_t v k^T."""
    w, rows = x["W"], []
    for t in range(T):
        w = x["retention"][t] * w + x["step"][t] * outer(x["v"][t], x["k"][t])
        rows.append(w @ x["q"][t])
    return torch.stack(rows)


@equation(EQUATIONS, retention="input", step="input")
def hgrn2(x):
    """HGRN2 2404.07904, section 3: W_t = W_{t-1} diag(f_t) + i_t (1 - f_t)^T."""
    w, rows = x["W"], []
    for f, o, i in zip(x["retention"], x["q"], x["v"], strict=True):
        w = w @ torch.diag(f) + outer(i, 1 - f)
        rows.append(w @ o)
    return torch.stack(rows)


@equation(EQUATIONS, step="head")
def deltanet(x):
    """DeltaNet 2406.06484, section 2.2: W_t = W_{t-1} (I - e k k^T) + e v k^T."""
    w, rows = x["W"], []
    for e, q, k, v in zip(*(x[n] for n in ("step", "q", "k", "v")), strict=True):
        w = w @ (EYE - e * outer(k, k)) + e * outer(v, k)
        rows.append(w @ q)
    return torch.stack(rows)


@equation(EQUATIONS, step="channel")
def longhorn(x):
    """Longhorn 2407.14207, eq 5: W_t = argmin ||W - W_{t-1}||^2 + ||W k - v||^2_diag(B).

    Each row solves a system of its own, (I + B k k^T) w_t = w_{t-1} + B v k.
    """
    w, rows = x["W"], []
    for b, q, k, v in zip(*(x[n] for n in ("step", "q", "k", "v")), strict=True):
        system = [
            torch.linalg.solve(EYE + b[i] * outer(k, k), w[i] + b[i] * v[i] * k) for i in range(K)
        ]
        w = torch.stack(system)
        rows.append(w @ q)
    return torch.stack(rows)


@equation(EQUATIONS, retention="head", step="head")
def gated_deltanet(x):
    """Gated DeltaNet 2412.06464, eq 10: W_t = a W_{t-1} (I - e k k^T) + e v k^T."""
    w, rows = x["W"], []
    for a, e, q, k, v in zip(*(x[n] for n in ("retention", "step", "q", "k", "v")), strict=True):
        w = a * w @ (EYE - e * outer(k, k)) + e * outer(v, k)
        rows.append(w @ q)
    return torch.stack(rows)


@equation(EQUATIONS, retention="input", step="input")
def rwkv7(x):
    """RWKV-7 2503.14456, eq 17: W_t = W_{t-1} (diag(w) - n (c * n)^T) + v m^T.

    With alpha = 1 the written key m is c * k, and the removed key n is k here.
    """
    state, rows = x["W"], []
    for w, c, r, k, v in zip(*(x[n] for n in ("retention", "step", "q", "k", "v")), strict=True):
        n, m = k, c * k
        state = state @ (torch.diag(w) - outer(n, c * n)) + outer(v, m)
        rows.append(state @ r)
    return torch.stack(rows)


@equation(EQUATIONS, retention="head", step="head")
def deltaproduct(x):
    """DeltaProduct 2502.10297, section 3: W_t = a W_{t-1} A_1 A_2 + sums of e v k^T,
    A_j = I - e_j k_j k_j^T, the later factors acting on the earlier writes too.
    """
    w, rows = x["W"], []
    for t in range(T):
        (e1, e2), (k1, k2), (v1, v2) = (x[n][2 * t : 2 * t + 2] for n in ("step", "k", "v"))
        first, second = EYE - e1 * outer(k1, k1), EYE - e2 * outer(k2, k2)
        w = x["retention"][t] * w @ first @ second
        w = w + e1 * outer(v1, k1) @ second + e2 * outer(v2, k2)
        rows.append(w @ x["q"][t])
    return torch.stack(rows)


@equation(EQUATIONS, retention="head", step="head", damping="input")
def mesa(x):
    """MesaNet 2506.05233, section 3: G = a G + e v k^T, H = a H + e k k^T, y = G (H + Lam)^-1 q."""
    g, h, rows = x["W"], torch.zeros_like(x["W"]), []
    for a, e, q, k, v in zip(*(x[n] for n in ("retention", "step", "q", "k", "v")), strict=True):
        g, h = a * g + e * outer(v, k), a * h + e * outer(k, k)
        rows.append(g @ torch.linalg.inv(h + torch.diag(x["damping"])) @ q)
    return torch.stack(rows)


TIED = {"hgrn2": lambda x: {"k": torch.ones_like(x["k"]), "step": 1 - x["retention"]}}
"""What a paper takes from other numbers, where the variant leaves it free."""


@LOWERINGS
@pytest.mark.parametrize(("name", "chunk"), names_and_chunks(EQUATIONS))
def test_published_matrix_memory(name, chunk, lowering):
    variant, (outputs, gates) = published(name, chunk), EQUATIONS[name]
    assert gates_per(variant) == gates
    x = leaves(variant)
    tied = TIED[name](x) if name in TIED else {}
    free = {leaf: tensor for leaf, tensor in x.items() if leaf not in tied}
    assert_same(memory(variant, x | tied, lowering), outputs(free), free)


@LOWERINGS
def test_hgrn2_is_gla_with_a_tied_key(lowering):
    """HGRN2 2404.07904, section 3: GLA with 1 - f in place of the key."""
    variant = published("gla")
    x = leaves(variant)
    k = 1 - x["retention"]
    del x["k"]
    assert_same(memory(variant, x | {"k": k}, lowering), hgrn2(x), x)


@LOWERINGS
def test_softmax_attention_against_torch(lowering):
    variant = published("softmax_attention")
    x = leaves(variant)
    q, k, v = (x[name][None] for name in "qkv")
    fused = functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
    assert_same(memory(variant, x, lowering), fused, x)

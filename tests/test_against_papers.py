"""Update rules as their papers print them, beside the published models, which all have theirs."""

import torch
from papers import LOWERINGS, assert_same, leaves, memory, published
from test_against_papers_deep import EQUATIONS as DEEP
from test_against_papers_matrix import EQUATIONS as MATRIX
from torch import outer

from miras_search.shipped import PUBLISHED
from miras_search.variant import Variant

DELTA = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}


def test_every_published_model_has_an_equation():
    files = {file.name for file in PUBLISHED.iterdir()}
    assert files == {f"{name}.yaml" for name in (*MATRIX, *DEEP)}


def test_titans_without_momentum_is_not_gated_deltanet():
    """Titans takes the error at the undecayed memory, 2412.06464 (eq 10) at the decayed one.

    Titans 2501.00663, appendix C, says that they are the same.
    """
    variant = Variant.from_dict(DELTA | {"retention": "l2"})
    x = leaves(variant)
    w, rows = x["W"], []
    for a, e, q, k, v in zip(*(x[n] for n in ("retention", "step", "q", "k", "v")), strict=True):
        w = a * w - e * outer(w @ k - v, k)
        rows.append(w @ q)
    y = memory(variant, x)
    assert_same(y, torch.stack(rows), x)
    assert (y - memory(published("gated_deltanet"), x)).abs().max() > 1e-3


@LOWERINGS
def test_dual_form_of_ttt(lowering):
    """TTT 2407.04620, eq 4-7 (dual form): a mini-batch of a matrix shares the weights it began
    with.
    """
    b = 7
    variant = Variant.from_dict(DELTA | {"chunk": b})
    x = leaves(variant)
    w, rows = x["W"], []
    for q, k, v, e in zip(*(x[n].split(b) for n in ("q", "k", "v", "step")), strict=True):
        error = e[:, None] * (k @ w.T - v)
        rows.append(q @ w.T - (q @ k.T).tril() @ error)
        w = w - error.T @ k
    assert_same(memory(variant, x, lowering), torch.cat(rows), x)

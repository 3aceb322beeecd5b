"""Updates against numerical solvers of the problems their papers derive them from.

A matrix memory takes three random tokens, and every W_t is read off by unit queries. Each step from
W' = W_{t-1} to W_t is judged three ways: the stated objective has a gradient (or a subgradient) of
zero at W_t, it is lower at no point nearby, and an iterative solver that knows only the objective
ends at W_t. g is the gradient of the bias at W'.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.func import grad, jacrev

from miras_search.layer import memorize
from miras_search.retention.lq import Lq
from miras_search.testing import cases
from miras_search.variant import Variant

T, OUT, IN = 3, 3, 4
OPTIMAL, SOLVED = 1e-12, 1e-10
SPARSITY = 0.8
EXACT = [Lq(form="exact", q=q) for q in (1.05, 1.3, 1.5, 1.8, 2.0)]
RANGES = {"step": (0.1, 0.6), "retention": (0.5, 0.95), "ridge": (0.1, 0.9), "damping": (0.3, 1.5)}
SHAPES = {"head": (1, 1), "channel": (OUT, 1), "input": (1, IN)}

lowerings = pytest.mark.parametrize("lowering", ["reference", "chunked"])


def eye():
    return torch.eye(IN, dtype=torch.float64)


def steps(test):
    """By either lowering, with steps of every side."""
    return lowerings(pytest.mark.parametrize("step", SHAPES)(test))


def steps_and_gates(test):
    """The same, with retention gates of every side."""
    return steps(pytest.mark.parametrize("per", SHAPES)(test))


def tokens(retention, step, lowering, algorithm="gd", empty=False):
    """For each token k, v, its gates by name, and the memory before and after, all matrices.

    `step` is the side of the steps. The memory starts at random, or `empty`. The queries are one
    unit vector for each sequence of a batch of equal ones.
    """
    learns = {"bias": "l2", "algorithm": {"kind": algorithm, "per": step}}
    variant = Variant.from_dict({"memory": "matrix", "retention": retention} | learns)
    rng = torch.Generator().manual_seed(5)

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    gates = {}
    for c in variant.coefficients():
        low, high = RANGES[c.name]
        share = torch.rand(T, *SHAPES[c.per], generator=rng, dtype=torch.float64)
        gates[c.name] = low + (high - low) * share
    k, v, start = randn(T, IN), randn(T, OUT), variant.retention.feasible(randn(OUT, IN))
    start = torch.zeros_like(start) if empty else start

    def batch(x):
        return x.flatten(1)[None, :, None].expand(IN, T, 1, -1)

    q = eye()[:, None, None].expand(IN, T, 1, IN)
    many, weights = {n: batch(g) for n, g in gates.items()}, None if empty else {"W": start[None]}
    y, state = memorize(variant, q, batch(k), batch(v), many, weights, None, lowering)
    memories = [start, *y[:, :, 0].permute(1, 2, 0)]
    if not variant.algorithm.accumulates:
        shown = variant.retention.expose(state.tensors["weights/W"])[0, 0]
        torch.testing.assert_close(shown, memories[-1], rtol=0, atol=1e-12)
    around = zip(k, v, memories[:-1], memories[1:], strict=True)
    return [
        SimpleNamespace(k=k, v=v, before=w, after=new, **{n: g[t] for n, g in gates.items()})
        for t, (k, v, w, new) in enumerate(around)
    ]


def loss(x, w):
    return (w @ x.k - x.v).square().sum() / 2


def gradient(x, at):
    return grad(partial(loss, x))(at)


def near(w, to, e):
    """||W - W'||^2 / (2e), e a step for each entry."""
    return ((w - to).square() / (2 * e)).sum()


def inner(x, y):
    return (x * y).sum()


def check(run, problem, start=None, *, rows=False, sparsity=0.0):
    """Each memory of a run minimises problem(token, g, W) + sparsity ||W||_1, a convex function.

    It is NaN outside its domain. The solver begins at `start`, the memory before unless given; with
    `rows` the row sums stay what they are there.
    """
    for x in run:
        objective = partial(problem, x, gradient(x, x.before))
        check_minimum(objective, x.after, x.before if start is None else start, rows, sparsity)
    if sparsity:
        share = torch.stack([x.after == 0 for x in run]).double().mean()
        assert 0 < share < 1


def check_minimum(objective, found, start, rows, sparsity):
    slope, rng = grad(objective)(found), torch.Generator().manual_seed(6)
    if rows:
        torch.testing.assert_close(found.sum(-1), start.sum(-1), rtol=0, atol=1e-12)
        slope = slope - slope.mean(-1, keepdim=True)
    least = (slope.abs() - sparsity).clamp(min=0)
    residual = torch.where(found == 0, least, (slope + sparsity * found.sign()).abs()).max().item()
    assert residual < OPTIMAL, "the smallest subgradient is not zero"
    around = []
    for size in (1e-1, 1e-2, 1e-3, 1e-4) * 10:
        move = size * torch.randn(OUT, IN, generator=rng, dtype=torch.float64)
        around.append(found + (move - move.mean(-1, keepdim=True) if rows else move))
    values = torch.stack([objective(w) + sparsity * w.abs().sum() for w in (found, *around)])
    assert values.isfinite().sum() > 20
    assert not (values < values[0]).any()
    solved = split(objective, sparsity) if sparsity else newton(objective, start, rows)
    torch.testing.assert_close(found, solved, rtol=0, atol=SOLVED)


def newton(objective, start, rows):
    """Damped Newton steps on a smooth, strictly convex problem."""
    basis = eye()[:, 1:] - eye()[:, :-1] if rows else eye()

    def at(y):
        return start + y.view(OUT, -1) @ basis.T

    derivative = grad(lambda y: objective(at(y)))
    y = torch.zeros(OUT * basis.shape[1], dtype=torch.float64)
    slope = derivative(y)
    for _ in range(500):
        if slope.norm() < 1e-11:
            return at(y)
        direction, size = torch.linalg.solve(jacrev(derivative)(y), slope), 1.0
        while not (new := derivative(y - size * direction)).norm() < (1 - size / 4) * slope.norm():
            size /= 2
            assert size > 1e-12, f"stuck at a slope of {slope.norm():.1e}"
        y, slope = y - size * direction, new
    raise AssertionError(f"a slope of {slope.norm():.1e} is left")


def split(objective, sparsity):
    """Projected gradient steps on W = P - N, both at least 0, for which ||W||_1 is a linear sum."""
    derivative = grad(lambda x: objective(x[0] - x[1]) + sparsity * x.sum())
    x = torch.ones(2, OUT, IN, dtype=torch.float64)
    curvature = jacrev(grad(objective))(x[0]).view(OUT * IN, OUT * IN)
    size = 0.5 / torch.linalg.eigvalsh(curvature).max()
    for _ in range(20000):
        new = (x - size * derivative(x)).clamp(min=0)
        if (new - x).abs().max() < 1e-12 * size:
            return new[0] - new[1]
        x = new
    raise AssertionError("the projected gradient is not zero yet")


@steps
def test_no_retention(lowering, step):
    """argmin <g, W> + ||W - W'||^2 / (2e): MIRAS 2504.13173, eq 5."""
    run = tokens("none", step, lowering)
    check(run, lambda x, g, w: inner(g, w) + near(w, x.before, x.step))


@steps_and_gates
def test_l2(lowering, step, per):
    """argmin <g, W> + a/(2e) ||W - W'||^2 + (1 - a)/(2e) ||W||^2: MIRAS, the general form."""

    def problem(x, g, w):
        a, e = x.retention, x.step
        return inner(g, w) + near(w, x.before, e / a) + near(w, 0, e / (1 - a))

    check(tokens({"kind": "l2", "per": per}, step, lowering), problem)


@steps_and_gates
def test_l2_at_the_decayed_memory(lowering, step, per):
    """argmin <g, W> + ||W - a W'||^2 / (2e), g at a W': Gated DeltaNet 2412.06464, eq 10."""

    def problem(x, _, w):
        kept = x.retention * x.before
        return inner(gradient(x, kept), w) + near(w, kept, x.step)

    check(tokens({"kind": "l2", "per": per, "at": "decayed"}, step, lowering), problem)


def local_global(x, g, w):
    return inner(g, w) + near(w, x.before, x.step) + near(w, 0, 1 / x.ridge)


@steps_and_gates
def test_l2_local_global(lowering, step, per):
    """argmin <g, W> + ||W - W'||^2 / (2e) + ridge/2 ||W||^2: MIRAS 2504.13173, section 4."""
    check(tokens({"kind": "l2_local_global", "per": per}, step, lowering), local_global)


@steps_and_gates
def test_proximal_elastic_net(lowering, step, per):
    """As l2_local_global, + sparsity ||W||_1: MIRAS 2504.13173, eq 22."""
    gate = {"kind": "elastic_net", "sparsity": SPARSITY, "per": per}
    check(tokens(gate, step, lowering), local_global, sparsity=SPARSITY)


@steps
def test_ftrl_elastic_net(lowering, step):
    """argmin <sum of e g - A_0, W> + 1/2 ||W||^2 + sparsity ||W||_1: MIRAS 2504.13173, eq 23."""
    gate = {"kind": "elastic_net", "form": "ftrl", "sparsity": SPARSITY}
    run = tokens(gate, step, lowering)
    dual = run[0].before + SPARSITY * run[0].before.sign()  # a subgradient of the regulariser
    for x in run:
        x.dual = dual = dual - x.step * gradient(x, x.before)
    check(run, lambda x, _, w: near(w, 0, 1) - inner(x.dual, w), sparsity=SPARSITY)


@steps_and_gates
@pytest.mark.parametrize("q", [1.3, 1.5, 1.8])
def test_exact_lq(lowering, step, per, q):
    """argmin <-A, W> + 1/2 ||W||_q^2, A_t = a A_{t-1} - e g: MIRAS 2504.13173, section 4."""

    def regulariser(w):
        return w.abs().pow(q).sum().pow(2 / q) / 2

    run = tokens({"kind": "lq", "form": "exact", "q": q, "per": per}, step, lowering)
    dual = grad(regulariser)(run[0].before)
    for x in run:
        x.dual = dual = x.retention * dual - x.step * gradient(x, x.before)
    check(run, lambda x, _, w: regulariser(w) - inner(x.dual, w))


@steps
@pytest.mark.parametrize("per", ["head", "channel"])
def test_kl(lowering, step, per):
    """argmin <g, W> + KL(W, W')/eta + sum W log W / alpha, rows sum to n: MIRAS, eq 21 and 27.

    1/eta = a / e and 1/alpha = (1 - a) / e, so that the printed 1 - lambda is a and the printed e'
    is e. The constraint ties a row together, so steps of columns weigh g instead: e g, a, 1 - a.
    """

    def problem(x, g, w):
        a, e = x.retention, x.step
        linear, weight = (e * g, 1.0) if step == "input" else (g, 1 / e)
        local, entropy = w * (w / x.before).log(), w * w.log()
        return inner(linear, w) + (weight * (a * local + (1 - a) * entropy)).sum()

    even = torch.ones(OUT, IN, dtype=torch.float64)
    check(tokens({"kind": "kl", "per": per}, step, lowering), problem, even, rows=True)


@steps
def test_bregman_sigmoid(lowering, step):
    """argmin <g, W> + D_F(W, W')/e, F = w log w + (1-w) log(1-w): MIRAS 2504.13173, section 4."""

    def f(w):
        return w * w.log() + (1 - w) * (1 - w).log()

    def problem(x, g, w):
        link = grad(lambda w: f(w).sum())(x.before)
        return inner(g, w) + ((f(w) - f(x.before) - link * (w - x.before)) / x.step).sum()

    half = torch.full((OUT, IN), 0.5, dtype=torch.float64)
    check(tokens("bregman", step, lowering), problem, half)


@steps
@pytest.mark.parametrize("per", [*SHAPES, None])
def test_implicit(lowering, step, per):
    """argmin 1/2 ||W k - v||^2 + ||W - a W'||^2 / (2e): Longhorn 2407.14207, eq 5, with decay."""

    def problem(x, _, w):
        kept = x.retention * x.before if per else x.before
        return loss(x, w) + near(w, kept, x.step)

    gate = {"kind": "l2", "per": per} if per else "none"
    check(tokens(gate, step, lowering, "implicit"), problem)


@steps_and_gates
def test_implicit_local_global(lowering, step, per):
    """argmin 1/2 ||W k - v||^2 + ||W - W'||^2 / (2e) + ridge/2 ||W||^2: Longhorn and MIRAS."""

    def problem(x, _, w):
        return loss(x, w) + near(w, x.before, x.step) + near(w, 0, 1 / x.ridge)

    check(tokens({"kind": "l2_local_global", "per": per}, step, lowering, "implicit"), problem)


@lowerings
@pytest.mark.parametrize("retention", ["none", "l2"])
@pytest.mark.parametrize("empty", [True, False])
def test_newton(lowering, retention, empty):
    """argmin sum w_i/2 ||W k_i - v_i||^2 + 1/2 ||W D^(1/2)||^2 - <a_1..a_t G_0, W>: MesaNet, 3.

    w_i = e_i a_{i+1} .. a_t, G_0 is the initial memory; the reads are also those of 30 conjugate
    gradient steps on (H_t + D) x = q.
    """
    run = tokens(retention, "head", lowering, "newton", empty)
    kept, weights = run[0].before, []
    for t, x in enumerate(run):
        a = getattr(x, "retention", 1.0)
        weights, kept = [*(a * w for w in weights), x.step], a * kept
        x.kept, x.past = kept, list(zip(weights, run[: t + 1], strict=True))
        h = sum(c * torch.outer(y.k, y.k) for c, y in x.past) + x.damping[0].diag()
        g = kept + sum(c * torch.outer(y.v, y.k) for c, y in x.past)
        read = torch.stack([g @ conjugate_gradient(h, q, 30) for q in eye()], dim=-1)
        torch.testing.assert_close(x.after, read, rtol=0, atol=1e-11)

    def problem(x, _, w):
        losses = sum(c.sum() * loss(y, w) for c, y in x.past)
        return losses + near(w, 0, 1 / x.damping) - inner(x.kept, w)

    check(run, problem)


def conjugate_gradient(a, b, steps):
    """x with a x = b, from 0; it stays once the residual is at its rounding error."""
    x, left, along = torch.zeros_like(b), b, b
    for _ in range(steps):
        if (size := left @ left) < 1e-30:
            break
        far = size / (along @ a @ along)
        x, left = x + far * along, left - far * (a @ along)
        along = left + left @ left / size * along
    return x


@pytest.mark.parametrize("retention", [*cases("retention"), *EXACT], ids=str)
def test_start_inverts_expose(retention):
    """psi(psi^-1(W)) = W, so that the dual state of MIRAS 2504.13173, section 4, begins at W_0."""
    if isinstance(retention, Lq) and retention.form == "printed" and retention.q == 3:
        pytest.skip("a map of degree 0 shows the direction of a state, so only unit norms have one")
    free = torch.randn(5, OUT, IN, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    for w in (free, 0.5 * free, free.where(free.abs() > 0.5, 0.0), torch.zeros_like(free)):
        memory = retention.feasible(w)
        shown = retention.expose(retention.start(memory))
        torch.testing.assert_close(shown, memory, rtol=0, atol=1e-6)

"""Equal names are equal functions, and different functions have different names."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from miras_search import legality
from miras_search.identities import IDENTITIES
from miras_search.layer import memorize
from miras_search.memory.base import ParametricMemory
from miras_search.nn.backbone import Backbone
from miras_search.size import Size
from miras_search.testing import cases_of, close, combinations, make_inputs, variants
from miras_search.variant import Variant

BASE = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}


def variant(**changes):
    return Variant.from_dict(BASE | changes)


def weights_for(simpler, weights):
    """The same matrices under the names the simpler variant gives them."""
    if weights is None or not isinstance(simpler.memory, ParametricMemory):
        return None
    return dict(zip(simpler.memory.matrices(4, 4), weights.values(), strict=True))


def projected(gates, of, to):
    """The gates of `of`, taken as numbers of its own intervals, as the same projections give them
    in a model of `to`: a share of each interval, in what other coefficients leave of it."""
    theirs, ours = ({c.name: c for c in v.coefficients()} for v in (of, to))
    moved = {}
    for name, g in gates.items():
        kind = name.partition(".")[0]
        if kind in ours and not ours[kind].fixed:
            a, b = theirs[kind], ours[kind]
            rest = 1.0 if math.isinf(a.high) else (b.high - b.low) / (a.high - a.low)
            moved[name] = b.low + (g - a.low) * rest

    def placed(name):
        kind, dot, matrix = name.partition(".")

        def other(c):
            return moved.get(c + dot + matrix, moved.get(c, ours[c].source))

        return ours[kind].among(moved[name], other)

    return {name: placed(name) for name in moved}


@pytest.mark.parametrize("lowering", ["reference", "chunked"])
@pytest.mark.parametrize("known", IDENTITIES, ids=lambda i: i.statement)
def test_both_sides_compute_the_same(known, lowering):
    example = Variant.from_dict(known.example)
    simpler = known.rewrite(example)
    assert simpler is not None
    assert simpler != example
    assert simpler.digest == example.digest
    assert simpler.canonical == example.canonical == example.canonical.canonical
    inputs = make_inputs(example, 10)
    leaves = [x.requires_grad_() for x in inputs.tensors().values()]
    weights = weights_for(simpler, inputs.weights)
    q, k, v = inputs.q, inputs.k, inputs.v
    given, gates = (projected(inputs.gates, example, side) for side in (example, simpler))
    one, _ = memorize(example, q, k, v, given, inputs.weights, None, lowering)
    two, _ = memorize(simpler, q, k, v, gates, weights, None, lowering)
    close(one, two, known.statement, 1e-12)
    of_one, of_two = (torch.autograd.grad(y.square().sum(), leaves) for y in (one, two))
    for a, b in zip(of_one, of_two, strict=True):
        close(a, b, f"gradients: {known.statement}", 1e-11)


@pytest.mark.parametrize("known", IDENTITIES, ids=lambda i: i.statement)
def test_both_sides_build_the_same_model(known):
    outputs = []
    example = Variant.from_dict(known.example)
    for side in (example, known.rewrite(example)):
        torch.manual_seed(0)
        model = Backbone(side, Size(width=16, layers=example.macro.depth), 11)
        logits, _ = model(torch.arange(9)[None])
        outputs.append(logits)
    assert outputs[0].equal(outputs[1])


def crowded():
    """The examples again, with every other setting of each component."""
    for known in IDENTITIES:
        example = Variant.from_dict(known.example)
        for axis, component in example.choices().items():
            written = known.example.get(axis)
            named = set(written) - {"kind"} if isinstance(written, dict) else set()
            kept = {name: getattr(component, name) for name in named}
            for case in cases_of(type(component)):
                try:
                    other = type(component)(**case.model_dump() | kept)
                except ValidationError:
                    continue
                yield example.replace(**{axis: other})


def test_identities_hold_whatever_else_is_set():
    """Learned and projected coefficients keep their ranges, and the outputs stay the same."""
    for v in dict.fromkeys(crowded()):
        simpler = v.canonical
        names = {(c.name, c.source) for c in v.coefficients() if not c.fixed}
        kept = {(c.name, c.source) for c in simpler.coefficients() if not c.fixed}
        assert names == kept, f"{v} and {simpler}"
        if legality.reasons(v) or simpler == v:
            continue
        x = make_inputs(v, 6)
        given = projected(x.gates, v, v)
        one, _ = memorize(v, x.q, x.k, x.v, given, x.weights, None, "chunked")
        weights = weights_for(simpler, x.weights)
        renamed = dict(zip(x.weights or (), weights or (), strict=False))
        split = ((*name.partition("."), g) for name, g in projected(x.gates, v, simpler).items())
        gates = {name + dot + renamed.get(m, m): g for name, dot, m, g in split}
        two, _ = memorize(simpler, x.q, x.k, x.v, gates, weights, None, "chunked")
        close(one, two, f"{v} and {simpler}", 1e-12)


def test_equal_digests_compute_the_same():
    """Over every case of every kind, with inputs that fit both."""
    groups = {}
    forms = ("coordinate", "norm", "mixture")
    unbounded = [variant(bias={"kind": "huber", "form": f, "delta": math.inf}) for f in forms]
    for v in [*variants(chunk=4), *unbounded]:
        groups.setdefault(v.digest, []).append(v)
    merged = [group for group in groups.values() if len(group) > 1]
    assert merged
    for group in merged:
        for one, two in pairwise(group):
            a = make_inputs(one, 9)
            ya, _ = memorize(one, a.q, a.k, a.v, projected(a.gates, one, one), a.weights)
            weights = weights_for(two, a.weights)
            yb, _ = memorize(two, a.q, a.k, a.v, projected(a.gates, one, two), weights)
            close(ya, yb, f"{one} and {two}", 1e-12)
    assert len({v.digest for v in unbounded}) == 1


def test_combinations_of_kinds_are_all_different():
    found = [v.digest for v in combinations(chunk=4)]
    assert len(set(found)) == len(found)


DIFFERENT = [
    variant(),
    variant(chunk=4),
    variant(chunk=8),
    variant(heads=2),
    variant(conv=0),
    variant(conv=1),
    variant(qk_norm="none"),
    variant(qk_norm="rms"),
    variant(initial_memory="zero"),
    variant(bias={"kind": "lp", "p": 1.5}),
    variant(bias={"kind": "lp", "p": 2.0000001}),
    *(variant(bias={"kind": "huber", "form": f}) for f in ("coordinate", "norm", "mixture")),
    variant(bias={"kind": "huber", "delta": 1e6}),
    variant(bias={"kind": "huber", "delta": "learned"}),
    variant(bias={"kind": "huber", "per": "channel"}),
    variant(bias={"kind": "huber", "per": "channel"}, gate_rank=8),
    variant(retention="l2"),
    variant(retention={"kind": "l2", "per": "channel"}),
    variant(retention={"kind": "l2", "retention": "learned"}),
    variant(retention={"kind": "l2", "retention": "learned", "per": "channel"}),
    variant(retention={"kind": "l2", "retention": 0.0}),
    variant(retention={"kind": "l2", "retention": 0.999}),
    variant(algorithm={"kind": "gd", "max_step": 0.5}),
    variant(algorithm={"kind": "gd", "step": 0.5}),
    variant(algorithm={"kind": "gd", "step": "learned"}),
    variant(algorithm={"kind": "gd", "per": "channel"}),
    variant(algorithm="momentum"),
    variant(algorithm={"kind": "momentum", "momentum": 0.5}),
    variant(algorithm={"kind": "momentum", "step": 0.5}),
    variant(memory="mlp"),
    variant(memory={"kind": "mlp", "depth": 1}),
    variant(memory={"kind": "mlp", "form": "plain"}),
    variant(memory={"kind": "mlp", "activation": "relu"}),
    variant(memory={"kind": "mlp", "expansion": 2}),
    variant(memory={"kind": "mlp", "depth": 3}),
    variant(memory="mlp", chunk=4, bias="dot"),
    variant(memory="mlp", bias="dot"),
    variant(memory="attention"),
    variant(memory={"kind": "attention", "scale": 1.0}),
]


def test_a_digest_is_that_of_earlier_studies():
    """As it was written before variants had positions, by the code of then."""
    assert variant().digest == "c4e06fc8ba11"
    assert variant(memory="attention").digest == "2dac03a3ae5e"
    assert variant(positions="rotary").digest != "c4e06fc8ba11"


def test_different_functions_have_different_digests():
    by_digest = {}
    for v in DIFFERENT:
        known = by_digest.setdefault(v.digest, v)
        assert known is v, f"{v} has the digest of {known}"

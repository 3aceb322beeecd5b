"""What is said of scores, against definitions, other ways to compute it, and counts of errors.

Counts are of seeded draws; each bound is where a method that errs as often as it may would fail
once in 30,000 times (four standard errors).
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from miras_search.stats import effects, seeds

DOCS = Path(__file__).parent.parent / "docs"
DRAWS = 2000
FINALS = [(finalists, count) for finalists in (2, 5, 10) for count in (3, 5, 10)]
NOISES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape),
    "a shared seed": lambda rng, shape: rng.normal(size=shape) + 3 * rng.normal(size=shape[1]),
    "learned or not": lambda rng, shape: (
        rng.choice([0.2, 1.0], size=shape) + rng.normal(scale=0.01, size=shape)
    ),
}


def at_most(rate, draws=DRAWS):
    """The largest share to be seen of errors that come at this rate."""
    return rate + 4 * np.sqrt(rate * (1 - rate) / draws)


def ordered(scores):
    return scores[np.argsort(-scores.mean(axis=1), kind="stable")]


def declares(scores):
    """Whether a winner is shown."""
    behind, needed = seeds.gaps(ordered(scores))
    return bool((behind[1:] > needed[1:]).all())


@pytest.mark.parametrize(("finalists", "count"), FINALS)
@pytest.mark.parametrize("noise", NOISES)
def test_equal_variants_have_a_winner_in_one_study_of_twenty(noise, finalists, count):
    rng = np.random.default_rng(0)
    told = [declares(NOISES[noise](rng, (finalists, count))) for _ in range(DRAWS)]
    assert np.mean(told) <= at_most(0.05)


@pytest.mark.parametrize(("finalists", "count"), FINALS)
def test_any_equal_variant_is_told_from_the_first_in_one_study_of_twenty(finalists, count):
    """The stronger claim: not one of the others is put behind, not only not all of them."""
    rng = np.random.default_rng(1)
    told = []
    for _ in range(DRAWS):
        behind, needed = seeds.gaps(ordered(rng.normal(size=(finalists, count))))
        told.append((behind > needed).any())
    assert np.mean(told) <= at_most(0.05)


def test_any_of_several_questions_is_answered_wrongly_in_one_study_of_twenty():
    """Four metrics of the same runs, as at four lengths; asked one by one it is 17 %."""
    rng = np.random.default_rng(3)
    told, alone = [], []
    for _ in range(DRAWS):
        metrics = [ordered(rng.normal(size=(4, 5))) for _ in range(4)]
        for found, among in ((told, 4), (alone, 1)):
            pairs = [seeds.gaps(scores, among=among) for scores in metrics]
            found.append(any((behind > needed).any() for behind, needed in pairs))
    assert np.mean(told) <= at_most(0.05)
    assert np.mean(alone) > at_most(0.1)


@pytest.mark.parametrize(
    ("finalists", "count", "ahead", "share"),
    [(2, 5, 3, 0.93), (5, 5, 3, 0.76), (5, 10, 2, 0.83), (10, 5, 4, 0.96)],
)
def test_a_winner_is_shown_as_often_as_the_documents_say(finalists, count, ahead, share):
    rng = np.random.default_rng(2)
    leads = np.array([ahead, *[0.0] * (finalists - 1)])[:, None]
    told = [declares(rng.normal(size=(finalists, count)) + leads) for _ in range(DRAWS)]
    row = rf"\| {finalists} \| {count} \|" + r" (\d+) \|" * 4
    written = re.search(row, (DOCS / "statistics.md").read_text())
    assert written is not None
    assert int(written[ahead]) == round(100 * share)
    # The documents round, and their count has an error too.
    assert np.mean(told) == pytest.approx(share, abs=0.005 + 4 * np.sqrt(2 * 0.25 / DRAWS))


def test_what_all_share_on_a_seed_costs_nothing():
    rng = np.random.default_rng(3)
    scores = ordered(rng.normal(size=(5, 4)))
    moved = scores + rng.normal(size=4) * 100
    for ours, theirs in zip(seeds.gaps(scores), seeds.gaps(moved), strict=True):
        assert np.allclose(ours, theirs)


def test_gaps_by_least_squares():
    """The error of the range test is that of a linear model of variants and seeds."""
    rng = np.random.default_rng(4)
    for variants, count in ((2, 3), (4, 6), (7, 3)):
        scores = ordered(rng.normal(size=(variants, count)))
        cells = [*itertools.product(range(variants), range(count))]
        design = np.array([[*np.eye(variants)[i], *np.eye(count)[j]] for i, j in cells])
        _, _, rank, _ = np.linalg.lstsq(design, scores.ravel(), rcond=None)
        fitted = design @ np.linalg.pinv(design) @ scores.ravel()
        freedom = variants * count - rank
        error = np.sqrt(((scores.ravel() - fitted) ** 2).sum() / freedom / count)
        pooled = scipy_stats.studentized_range.ppf(0.95, variants, freedom) * error
        for row, one in enumerate(scores):
            behind, needed = seeds.gaps(scores, row)
            assert np.allclose(behind, one.mean() - scores.mean(axis=1))
            for i in {*range(variants)} - {row}:
                interval = scipy_stats.ttest_rel(one, scores[i]).confidence_interval(0.95)
                expected = max(pooled, (interval.high - interval.low) / 2)
                assert needed[i] == pytest.approx(expected)


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("spreads", [(1, 1, 1, 1), (0.1, 1, 3, 10)])
def test_the_interval_of_a_mean_covers_it(count, spreads):
    rng = np.random.default_rng(5)
    missed = np.zeros(len(spreads))
    for _ in range(DRAWS):
        scores = rng.normal(size=(len(spreads), count)) * np.array(spreads)[:, None]
        missed += np.abs(scores.mean(axis=1)) > seeds.margins(scores)
    assert (missed / DRAWS <= at_most(0.05)).all()


def test_runs_that_happen_to_be_alike_have_an_interval():
    assert (seeds.margins(np.array([[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])) > 0.1).all()


@pytest.mark.parametrize(("finalists", "count"), FINALS)
def test_the_intervals_of_equals_cover_all_means_together(finalists, count):
    """And so that of the first, which is first by luck."""
    rng = np.random.default_rng(13)
    missed = 0
    for _ in range(DRAWS):
        scores = ordered(rng.normal(size=(finalists, count)))
        missed += (np.abs(scores.mean(axis=1)) > seeds.margins(scores)).any()
    assert missed / DRAWS <= at_most(0.05)


def test_what_unequal_spreads_cost_is_what_the_documents_say():
    """Half of the variants vary a hundred times as much as the others."""
    rng = np.random.default_rng(14)
    spreads = np.array([1.0] * 5 + [0.01] * 5)[:, None]
    missed = np.zeros(3)
    for _ in range(DRAWS):
        scores = ordered(rng.normal(size=(10, 10)) * spreads)
        wrong = np.abs(scores.mean(axis=1)) > seeds.margins(scores)
        behind, needed = seeds.gaps(scores)
        missed += (wrong.any(), wrong[0], (behind > needed).any())
    joint, first, told = missed / DRAWS
    assert max(joint, told) == pytest.approx(0.15, abs=0.03)
    assert first == pytest.approx(0.07, abs=0.02)


@pytest.mark.parametrize("ahead", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("finalists", "count"), FINALS)
def test_the_probability_to_be_better_is_covered(finalists, count, ahead):
    """One interval of a study misses in one study of twenty; equals all have one half."""
    rng = np.random.default_rng(6)
    leads = np.array([ahead, *[0.0] * (finalists - 1)])
    missed = 0
    for _ in range(DRAWS):
        scores = rng.normal(size=(finalists, count)) + leads[:, None]
        order = np.argsort(-scores.mean(axis=1), kind="stable")
        true = scipy_stats.norm.cdf((leads[order[0]] - leads[order]) / np.sqrt(2))
        told = zip(seeds.superiority(scores[order]), true, strict=True)
        missed += any(not one.low <= value <= one.high for one, value in [*told][1:])
    assert missed / DRAWS <= at_most(0.05)


def test_the_probability_to_be_better_counts_pairs():
    first, other = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in first for b in other]
    own, told = seeds.superiority(np.array([first, other]))
    assert (own.value, told.value) == (0.5, pytest.approx(np.mean(pairs)))
    # Of three variants there are three pairs.
    low, high = scipy_stats.binomtest(3, 3).proportion_ci(1 - 0.05 / 3, method="wilson")
    _, told, _ = seeds.superiority(np.array([first + 9, other, other - 1]))
    assert (told.value, told.low, told.high) == pytest.approx((1, low, high))


def test_the_best_of_equals_is_worth_no_more_than_they_are():
    """Its mean flatters by 1.4 standard errors of one; the corrected one by nothing."""
    rng = np.random.default_rng(7)
    draws = [ordered(rng.normal(size=(8, 5))) for _ in range(DRAWS)]
    corrected = np.array([seeds.cross_validated(scores) for scores in draws])
    assert abs(corrected.mean()) <= 4 * corrected.std() / np.sqrt(DRAWS)
    # The largest of eight normal draws is 1.42 in the mean.
    flattered = np.array([scores[0].mean() for scores in draws]) * np.sqrt(5)
    assert abs(flattered.mean() - 1.42) <= 4 * flattered.std() / np.sqrt(DRAWS) + 0.005
    assert all(c <= s[0].mean() + 1e-12 for c, s in zip(corrected, draws, strict=True))


def test_the_correction_by_a_loop():
    rng = np.random.default_rng(8)
    scores = ordered(rng.normal(size=(4, 3)))
    found = []
    for left_out in range(3):
        rest = [np.delete(row, left_out).mean() for row in scores]
        found.append(scores[int(np.argmax(rest)), left_out])
    assert seeds.cross_validated(scores) == pytest.approx(np.mean(found))
    # Of those that tie in the choice, all count alike.
    assert seeds.cross_validated(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])) == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize("count", [3, 5, 20])
def test_what_was_not_seen(count):
    assert (1 - seeds.unseen(count)) ** count == pytest.approx(0.05)


AXES = {"memory": 2, "bias": 4, "retention": 3, "algorithm": 2}


def design(repeats=2):
    """Every combination, some twice: the values of each axis."""
    rows = [*itertools.product(*(range(n) for n in AXES.values()))] * repeats
    columns = np.array(rows).T
    return {
        axis: [f"{axis}{i}" for i in column] for axis, column in zip(AXES, columns, strict=True)
    }


def test_axes_that_do_nothing_are_seldom_found():
    """In one study of twenty anything at all is said to matter."""
    rng = np.random.default_rng(9)
    axes = design()
    width = [*rng.integers(1, 5, len(axes["bias"])).astype(float)]
    studies = 150
    told = []
    for seed in range(studies):
        scores = rng.normal(size=len(width))
        found = effects.Design(scores, axes, {"width": width}).effects(seed)
        told.append(any(effect.q is not None and effect.q <= 0.05 for effect in found))
    assert np.mean(told) <= at_most(0.05, studies)


def test_what_matters_is_found_and_nothing_else():
    rng = np.random.default_rng(10)
    axes = design()
    n = len(axes["bias"])
    width = [
        float(x) if m == "memory1" else None
        for m, x in zip(axes["memory"], rng.permutation(n), strict=True)
    ]
    scores = rng.normal(scale=0.3, size=n)
    scores += np.array([{"bias2": 1.0}.get(b, 0.0) for b in axes["bias"]])
    pairs = zip(axes["retention"], axes["algorithm"], strict=True)
    scores += np.array([1.0 if pair == ("retention0", "algorithm1") else 0.0 for pair in pairs])
    scores += np.array([0.0 if w is None else (w - n / 2) / n for w in width])
    found = {e.name: e for e in effects.Design(scores, axes, {"width": width}).effects()}
    matter = {name for name, e in found.items() if e.q is not None and e.q <= 0.05}
    # An interaction of two axes shows in the axes too.
    assert {"bias", "retention x algorithm", "width"} <= matter
    assert not {"memory x bias", "bias x retention", "memory x retention"} & matter
    assert found["width"].variants == n // 2


def drawn_within(p):
    """Four standard errors of a p-value by draws that end when enough explain as much."""
    draws = min(effects.ENOUGH / p, effects.DRAWS)
    return 4 * np.sqrt(p * (1 - p) / draws) + 1 / effects.DRAWS


def test_an_effect_is_the_f_test_of_nested_models():
    """Random signs and the F distribution agree where noise is normal and variants are many."""
    rng = np.random.default_rng(11)
    axes = design(8)
    columns = [effects.one_hot(values) for values in axes.values()]
    n = len(axes["bias"])
    for strength in (0.0, 0.1, 0.2):
        scores = rng.normal(size=n) + strength * columns[1][:, 2]
        told = effects.explained("bias", scores, [columns[0], *columns[2:]], columns[1], rng)

        def left(parts, scores=scores):
            made = np.column_stack([np.ones(n), *parts])
            return (
                (scores - made @ np.linalg.pinv(made) @ scores) ** 2
            ).sum(), np.linalg.matrix_rank(made)

        without, small = left([columns[0], *columns[2:]])
        whole, large = left(columns)
        f = (without - whole) / (large - small) / (whole / (n - large))
        p = scipy_stats.f.sf(f, large - small, n - large)
        # The signs are not quite the F distribution.
        assert told.p == pytest.approx(p, abs=drawn_within(p) + 0.01)


def test_a_share_is_the_adjusted_r2_of_least_squares():
    """That of what other axes leave: variance for each degree of freedom, before and after."""
    rng = np.random.default_rng(15)
    _, bias, retention, algorithm = (effects.one_hot(values) for values in design(1).values())

    def variance(parts, scores):
        made = np.column_stack([np.ones(48), *parts])
        fitted, _, rank, _ = np.linalg.lstsq(made, scores, rcond=None)
        return ((scores - made @ fitted) ** 2).sum() / (48 - rank)

    for beside in ([], [retention, algorithm]):
        for strength in (0.0, 0.5, 2.0):
            scores = rng.normal(size=48) + strength * bias[:, 2]
            told = effects.explained("bias", scores, beside, bias, rng)
            r2 = 1 - variance([*beside, bias], scores) / variance(beside, scores)
            assert told.share == pytest.approx(max(0, r2))
            assert strength < 2 or r2 > 0.2


def test_a_p_value_is_the_share_of_signs_that_explain_as_much():
    """All signs of twelve variants, one by one, each by least squares."""
    rng = np.random.default_rng(17)
    beside = rng.normal(size=(12, 2))
    added = np.array([0, 1, 2] * 4)[:, None] == np.arange(3)
    base = np.column_stack([np.ones(12), beside])
    kept = np.eye(12) - base @ np.linalg.pinv(base)
    for strength in (0.0, 1.0, 2.0):
        scores = rng.normal(size=12) + strength * added[:, 0] + beside @ [1.0, -1.0]
        left, own = kept @ scores, kept @ added

        def explained(signs, left=left, own=own):
            fitted, *_ = np.linalg.lstsq(kept @ (signs[:, None] * own), left, rcond=1e-9)
            return left @ (kept @ (signs[:, None] * own) @ fitted)

        every = [explained(np.array(signs)) for signs in itertools.product((-1.0, 1.0), repeat=12)]
        p = np.mean([one >= explained(np.ones(12)) - 1e-9 for one in every])
        told = effects.explained("kind", scores, [beside], added.astype(float), rng)
        assert told.p == pytest.approx(p, abs=drawn_within(p))


@pytest.mark.parametrize(("deep", "spread"), [(2, 3.0), (6, 0.3), (6, 3.0), (12, 3.0)])
def test_kinds_need_not_vary_alike(deep, spread):
    """Of 24 variants, and of 14 where a pair of kinds was tried in one variant."""
    rng = np.random.default_rng(18)
    n = 14 if deep == 2 else 24
    axes = {
        "memory": ["deep" if i < deep else "matrix" for i in range(n)],
        "bias": ["l2" if i % 2 else "dot" for i in range(n)],
        "retention": ["l2" if i // 2 % 2 else "none" for i in range(n)],
        "algorithm": ["gd" if i // 4 % 2 else "momentum" for i in range(n)],
    }
    spreads = np.array([spread if kind == "deep" else 1.0 for kind in axes["memory"]])
    studies, told = 100, []
    for seed in range(studies):
        found = effects.Design(rng.normal(size=n) * spreads, axes).effects(seed)
        told.append(any(effect.q is not None and effect.q <= 0.05 for effect in found))
    assert np.mean(told) <= at_most(0.05, studies)


def crossed():
    """Three memories with two kinds of every other axis."""
    rows = itertools.product(("vector", "matrix", "mlp"), ("dot", "l2"), ("none", "l2"), "ab")
    memory, bias, retention, algorithm = map(list, zip(*rows, strict=True))
    return {"memory": memory, "bias": bias, "retention": retention, "algorithm": algorithm}


@pytest.mark.parametrize("where", ["both", "either"])
def test_what_a_setting_does_is_not_told_of_the_axes_that_it_goes_with(where):
    """It is on where both axes have one kind, or where one and not the other has."""
    axes, rng = crossed(), np.random.default_rng(19)
    pairs = [(b == "l2", r == "none") for b, r in zip(axes["bias"], axes["retention"], strict=True)]
    on = [float(all(pair) if where == "both" else pair[0] != pair[1]) for pair in pairs]
    told = dict.fromkeys(("bias", "retention", "memory", "algorithm"), 0)
    studies = 50
    for seed in range(studies):
        scores = rng.normal(size=24) + 5 * np.array(on)
        found = {e.name: e for e in effects.Design(scores, axes, {"clip": on}).effects(seed)}
        assert found["clip"].p is None
        assert found["clip"].goes_with == ("bias x retention",)
        assert found["bias x retention"].p is None
        assert found["bias x retention"].goes_with == ("clip",)
        assert found["bias"].goes_with == (("clip",) if where == "both" else ())
        for axis in told:
            q = found[axis].q
            told[axis] += q is not None and q <= 0.05
    assert max(told.values()) / studies <= at_most(0.05, studies)


def test_what_a_peak_of_few_values_does_is_not_told_of_the_axis_that_goes_with_it():
    """It is beside everything, and most of one memory has the value at the peak."""
    axes, rng = crossed(), np.random.default_rng(24)
    axes = {axis: kinds * 2 for axis, kinds in axes.items()}
    told, studies = 0, 60
    for seed in range(studies):
        peak = [rng.random() < (0.8 if kind == "mlp" else 0.2) for kind in axes["memory"]]
        heads = [2.0 if there else float(rng.choice([1, 4, 8])) for there in peak]
        scores = rng.normal(size=48) + 5 * (np.array(heads) == 2)
        found = effects.Design(scores, axes, sides={"heads": heads}).effects(seed)
        told += any(e.q is not None and e.q <= 0.05 for e in found)
    assert told / studies <= at_most(0.05, studies)


def test_of_settings_that_go_together_neither_is_told():
    axes, rng = crossed(), np.random.default_rng(20)
    has = [kind == "a" for kind in axes["algorithm"]]
    drawn = rng.permutation([0.0, 1.0] * 6)
    on = [float(drawn[i // 2]) if there else None for i, there in enumerate(has)]
    off = [None if value is None else "no" if value else "yes" for value in on]
    scores = rng.normal(size=24) + np.array([5 * (value or 0.0) for value in on])
    found = {e.name: e for e in effects.Design(scores, axes, {"clip": on, "step": off}).effects()}
    assert found["clip"].p is found["step"].p is None
    assert "step" in found["clip"].goes_with
    assert "clip" in found["step"].goes_with
    alone = {e.name: e for e in effects.Design(scores, axes, {"clip": on}).effects()}
    assert alone["clip"].p is not None
    assert alone["clip"].p <= 0.01


def test_what_goes_with_a_setting_by_the_f_test_of_nested_models():
    """Where another explains it beside the axes; by chance one in twenty does."""
    axes, rng = crossed(), np.random.default_rng(21)
    base = np.column_stack([effects.one_hot(kinds) for kinds in axes.values()])
    draws, told = 100, []
    for _ in range(draws):
        one, other = rng.normal(size=(2, 24))
        found = effects.Design(rng.normal(size=24), axes, {"one": one, "other": other})
        (effect,) = (e for e in found.effects() if e.name == "one")
        told.append("other" in effect.goes_with)
        x, y = (effects.coded([*values]) for values in (one, other))
        # By Wilks' lambda, of which the F is exact for two columns.
        joint = np.column_stack([base, y])
        sums = [x.T @ (x - m @ np.linalg.lstsq(m, x, rcond=None)[0]) for m in (joint, base)]
        root = np.sqrt(np.linalg.det(sums[0]) / np.linalg.det(sums[1]))
        freedom = 24 - np.linalg.matrix_rank(base)
        p = scipy_stats.f.sf((1 - root) / root * (freedom - 3) / 2, 4, 2 * (freedom - 3))
        # Pillai's trace is not quite the same.
        assert told[-1] == (p <= effects.TOGETHER) or abs(p - effects.TOGETHER) < 0.03
    assert 0 < np.mean(told) <= at_most(0.05, draws)


@pytest.mark.parametrize("values", [[3.0, None, 1.0, 2.0, None], ["b", None, "a", "b", None]])
def test_a_field_that_a_variant_has_not_moves_nothing(values):
    made = effects.coded(values)
    has = np.array([value is not None for value in values])
    assert not made[~has].any()
    assert np.allclose(made[has].mean(axis=0), 0)
    assert np.linalg.matrix_rank(made) == (2 if values[0] == 3.0 else 1)


def test_no_effect_is_so_large_that_it_cannot_be_chance():
    """All draws together are one short of saying that p is 0."""
    rng = np.random.default_rng(16)
    bias = effects.one_hot(design(1)["bias"])
    scores = rng.normal(size=48) + 1000 * bias[:, 2]
    assert effects.explained("bias", scores, [], bias, rng).p == 1 / (effects.DRAWS + 1)


def test_a_choice_by_means_where_all_were_tried_alike():
    rng = np.random.default_rng(12)
    axes = design()
    scores = rng.normal(size=len(axes["bias"]))
    for axis, values in axes.items():
        told = effects.Design(scores, axes).choices(axis).of
        means = {v: scores[np.array(values) == v].mean() for v in set(values)}
        centre = np.mean([*means.values()])
        assert told == pytest.approx({v: mean - centre for v, mean in means.items()})


def test_a_choice_gains_nothing_by_its_company():
    """Where a choice was tried mostly with a good partner, its mean flatters it."""
    a = ["x"] * 9 + ["y"] + ["x"] + ["y"] * 9
    b = ["good"] * 10 + ["bad"] * 10
    scores = np.array([1.0 if value == "good" else 0.0 for value in b])
    told = effects.Design(scores, {"a": a, "b": b})
    assert told.choices("a").of == pytest.approx({"x": 0.0, "y": 0.0}, abs=1e-9)
    assert told.choices("b").of == pytest.approx({"good": 0.5, "bad": -0.5})
    confounded = effects.Design(scores, {"a": b, "b": b})
    assert set(confounded.choices("a").of.values()) == {None}


def test_what_came_in_one_company_only_is_left_out():
    """z was tried with "own" only: the others are still compared with each other."""
    a = ["x", "x", "y", "y"] * 3 + ["z"] * 3
    b = ["good", "bad"] * 6 + ["own"] * 3
    scores = np.array([0.4 * (p == "x") + 1.0 * (q == "good") for p, q in zip(a, b, strict=True)])
    told = effects.Design(scores, {"a": a, "b": b})
    expected = {"x": pytest.approx(0.2), "y": pytest.approx(-0.2), "z": None}
    assert told.choices("a").of == expected
    expected = {"good": pytest.approx(0.5), "bad": pytest.approx(-0.5), "own": None}
    assert told.choices("b").of == expected


def test_the_margin_of_a_difference_by_leaving_out_one_after_another():
    """What a score is off by is what a fit to all others says of it."""
    rng = np.random.default_rng(22)
    axes = crossed()
    scores = rng.normal(size=24)
    design = np.column_stack([effects.one_hot(kinds) for kinds in axes.values()])
    off = []
    for i in range(24):
        rest = np.arange(24) != i
        fitted, *_ = np.linalg.lstsq(design[rest], scores[rest], rcond=None)
        off.append(scores[i] - design[i] @ fitted)
    told = effects.Design(scores, axes).choices("memory")
    means = {kind: np.array(axes["memory"]) == kind for kind in ("mlp", "vector")}
    # In a crossed design a difference of means is that of scores, an eighth each.
    weights = (means["mlp"] * 1.0 - means["vector"]) / 8
    # The variance is a quadratic form of noise: twice its mean's square over its variance.
    rest = np.eye(24) - design @ np.linalg.pinv(design)
    form = rest @ np.diag((weights / np.diag(rest)) ** 2) @ rest
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    expected = scipy_stats.t.ppf(1 - 0.025 / 3, freedom) * np.sqrt(((weights * off) ** 2).sum())
    assert told.margin("mlp", "vector", 3) == pytest.approx(expected)
    # A value against the mean of all three.
    weights = (means["mlp"] * 1.0 - 1 / 3) / 8
    form = rest @ np.diag((weights / np.diag(rest)) ** 2) @ rest
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    expected = scipy_stats.t.ppf(1 - 0.025 / 3, freedom) * np.sqrt(((weights * off) ** 2).sum())
    assert told.own_margin("mlp") == pytest.approx(expected)
    # Of two, each is half as far from the mean as from the other.
    two = effects.Design(scores, axes).choices("bias")
    one, other = two.of
    assert two.own_margin(one) == pytest.approx(two.margin(one, other, 1) / 2)
    # One variant alone in a cell tells nothing of how far it is off.
    one = {"a": ["x"] * 6 + ["y"], "b": ["u", "v"] * 3 + ["w"]}
    assert effects.means(scores[:7], one["a"], []).margin("x", "y", 1) is None


@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("rare", [2, 8])
def test_the_interval_of_a_difference_covers_it(rare, spread):
    """Also where two variants alone have a kind."""
    rng = np.random.default_rng(23)
    axes, missed, own_missed, draws = crossed(), 0, 0, 500
    if rare == 2:
        axes["memory"] = ["mlp" if i in (3, 20) else "vector" for i in range(24)]
    spreads = np.array([spread if kind == "mlp" else 1.0 for kind in axes["memory"]])
    pairs = [*itertools.combinations(sorted({*axes["memory"]}), 2)]
    for _ in range(draws):
        told = effects.Design(rng.normal(size=24) * spreads, axes).choices("memory")
        margins = [told.margin(*pair, comparisons=len(pairs)) for pair in pairs]
        gaps = [abs(told.of[a] - told.of[b]) for a, b in pairs]
        missed += any(gap > margin for gap, margin in zip(gaps, margins, strict=True))
        own_missed += any(abs(value) > told.own_margin(kind) for kind, value in told.of.items())
    assert missed / draws <= at_most(0.05, draws)
    assert own_missed / draws <= at_most(0.05, draws)


def test_too_few_to_judge_by():
    axes = {"a": ["x", "y", "x", "y"], "b": ["u", "u", "v", "v"]}
    told = effects.Design(np.arange(4.0), axes).effects()
    assert [effect.p for effect in told] == [None] * 3

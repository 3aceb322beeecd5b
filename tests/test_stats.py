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
        found = effects.effects(scores, axes, {"width": width}, seed)
        told.append(any(effect.q is not None and effect.q <= 0.05 for effect in found))
    assert np.mean(told) <= at_most(0.05, studies)


def test_what_matters_is_found_and_nothing_else():
    rng = np.random.default_rng(10)
    axes = design()
    n = len(axes["bias"])
    width = [
        float(x) if m == "memory1" else None for m, x in zip(axes["memory"], range(n), strict=True)
    ]
    scores = rng.normal(scale=0.3, size=n)
    scores += np.array([{"bias2": 1.0}.get(b, 0.0) for b in axes["bias"]])
    pairs = zip(axes["retention"], axes["algorithm"], strict=True)
    scores += np.array([1.0 if pair == ("retention0", "algorithm1") else 0.0 for pair in pairs])
    scores += np.array([0.0 if w is None else (w - n / 2) / n for w in width])
    found = {e.name: e for e in effects.effects(scores, axes, {"width": width})}
    matter = {name for name, e in found.items() if e.q is not None and e.q <= 0.01}
    # An interaction of two axes shows in the axes too.
    assert {"bias", "retention x algorithm", "width"} <= matter
    assert not {"memory x bias", "bias x retention", "memory x retention"} & matter
    assert found["width"].variants == n // 2
    assert found["bias"].share == pytest.approx(
        np.var([1.0 if b == "bias2" else 0.0 for b in axes["bias"]]) / np.var(scores), abs=0.1
    )


def test_an_effect_is_the_f_test_of_nested_models():
    """Shuffling and the F distribution agree where noise is normal."""
    rng = np.random.default_rng(11)
    axes = design(1)
    columns = [effects.one_hot(values) for values in axes.values()]
    for strength in (0.0, 0.3, 0.6):
        scores = rng.normal(size=48) + strength * columns[1][:, 2]
        told = effects.explained("bias", scores, [columns[0], *columns[2:]], columns[1], rng)

        def left(parts, scores=scores):
            made = np.column_stack([np.ones(48), *parts])
            return (
                (scores - made @ np.linalg.pinv(made) @ scores) ** 2
            ).sum(), np.linalg.matrix_rank(made)

        without, small = left([columns[0], *columns[2:]])
        whole, large = left(columns)
        f = (without - whole) / (large - small) / (whole / (48 - large))
        p = scipy_stats.f.sf(f, large - small, 48 - large)
        # Four standard errors of a p-value from 2,000 shuffles, and the noise is not quite normal.
        assert told.p == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000) + 0.01)


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


def test_what_goes_with_an_axis_is_the_adjusted_r2_of_its_kinds():
    """Of the ranks and their squares, of those that have the field."""
    rng = np.random.default_rng(16)
    kinds = [f"kind{i}" for i in rng.integers(0, 3, 60)]
    for pull in (0.0, 1.0, 100.0):
        has = rng.random(60) < 0.7
        drawn = rng.normal(size=60) + pull * np.array([kind == "kind1" for kind in kinds])
        values = [float(x) if there else None for x, there in zip(drawn, has, strict=True)]
        ranks = scipy_stats.rankdata(drawn[has]) - (has.sum() + 1) / 2
        within = total = 0.0
        for y in (ranks, ranks**2):
            made = effects.one_hot([k for k, there in zip(kinds, has, strict=True) if there])
            fitted, *_ = np.linalg.lstsq(made, y, rcond=None)
            within += ((y - made @ fitted) ** 2).sum()
            total += ((y - y.mean()) ** 2).sum()
        expected = 1 - within / (has.sum() - 3) / (total / (has.sum() - 1))
        assert effects.goes_with(values, kinds) == pytest.approx(max(0.0, expected))
    words = ["wide" if kind == "kind1" else "narrow" for kind in kinds]
    assert effects.goes_with(words, kinds) == pytest.approx(1.0)
    # A kind each tells nothing, and neither does a field of one value.
    assert effects.goes_with([1.0, 2.0, 3.0], ["a", "b", "c"]) == 0.0
    assert effects.goes_with([1.0, 1.0, None, 1.0], ["a", "b", "c", "a"]) == 0.0


@pytest.mark.parametrize("values", [[3.0, None, 1.0, 2.0, None], ["b", None, "a", "b", None]])
def test_a_field_that_a_variant_has_not_moves_nothing(values):
    made = effects.coded(values)
    has = np.array([value is not None for value in values])
    assert not made[~has].any()
    assert np.allclose(made[has].mean(axis=0), 0)
    assert np.linalg.matrix_rank(made) == (2 if values[0] == 3.0 else 1)


def test_no_effect_is_so_large_that_it_cannot_be_chance():
    """All shuffles together are one short of saying that p is 0."""
    rng = np.random.default_rng(16)
    bias = effects.one_hot(design(1)["bias"])
    scores = rng.normal(size=48) + 1000 * bias[:, 2]
    assert effects.explained("bias", scores, [], bias, rng).p == 1 / (effects.SHUFFLES + 1)


def test_a_choice_by_means_where_all_were_tried_alike():
    rng = np.random.default_rng(12)
    axes = design()
    scores = rng.normal(size=len(axes["bias"]))
    told = effects.choices(scores, axes)
    for axis, values in axes.items():
        means = {v: scores[np.array(values) == v].mean() for v in set(values)}
        centre = np.mean([*means.values()])
        assert told[axis] == pytest.approx({v: mean - centre for v, mean in means.items()})


def test_a_choice_gains_nothing_by_its_company():
    """Where a choice was tried mostly with a good partner, its mean flatters it."""
    a = ["x"] * 9 + ["y"] + ["x"] + ["y"] * 9
    b = ["good"] * 10 + ["bad"] * 10
    scores = np.array([1.0 if value == "good" else 0.0 for value in b])
    told = effects.choices(scores, {"a": a, "b": b})
    assert told["a"] == pytest.approx({"x": 0.0, "y": 0.0}, abs=1e-9)
    assert told["b"] == pytest.approx({"good": 0.5, "bad": -0.5})
    confounded = effects.choices(scores, {"a": b, "b": b})
    assert set(confounded["a"].values()) == {None}


def test_what_came_in_one_company_only_is_left_out():
    """z was tried with "own" only: the others are still compared with each other."""
    a = ["x", "x", "y", "y"] * 3 + ["z"] * 3
    b = ["good", "bad"] * 6 + ["own"] * 3
    scores = np.array([0.4 * (p == "x") + 1.0 * (q == "good") for p, q in zip(a, b, strict=True)])
    told = effects.choices(scores, {"a": a, "b": b})
    assert told["a"] == {"x": pytest.approx(0.2), "y": pytest.approx(-0.2), "z": None}
    assert told["b"] == {"good": pytest.approx(0.5), "bad": pytest.approx(-0.5), "own": None}


def test_too_few_to_judge_by():
    told = effects.effects(
        np.arange(4.0), {"a": ["x", "y", "x", "y"], "b": ["u", "u", "v", "v"]}, {}
    )
    assert [effect.p for effect in told] == [None] * 3

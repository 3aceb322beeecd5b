"""What is said of a study and of what it does not show, from records made by hand."""

import math

import numpy as np
import pytest
import study_samples as samples
from report_page import check
from scipy.stats import studentized_range
from study_samples import printed

from miras_search.finals import judged_by, standing
from miras_search.report import figures, reasons, sentences, text
from miras_search.report.failures import failures
from miras_search.report.html import write_report
from miras_search.report.leaderboard import best_per_variant
from miras_search.stats.ranks import correlation


def test_what_a_single_choice_does_is_told_of_finalists_that_differ_in_it_alone(tmp_path):
    how = samples.recipe(finalists=4, seeds=3)
    one = samples.variants()[0]
    names = ("momentum", "gd", "huber", "attention")
    found = dict(
        zip(
            names,
            (
                one.replace(algorithm=samples.variants()[1].algorithm),
                one,
                one.replace(bias=samples.variants()[8].bias),
                samples.variants()[-1],
            ),
            strict=True,
        )
    )
    records = [samples.record(i, v, 0.9 - 0.1 * i, how=how) for i, v in enumerate(found.values())]
    # In no finals: what the retention gate and the bias do for the first stays open.
    other = samples.variants()[-2]
    for variant in (
        found["momentum"].replace(retention=other.retention),
        found["momentum"].replace(bias=other.bias),
        other,
    ):
        records.append(samples.record(len(records), variant, 0.1, how=how))
    # Seed by seed, in the order of the search.
    scores = np.array([[0.90, 0.61, 0.60, 0.1], [0.91, 0.60, 0.61, 0.2], [0.92, 0.62, 0.59, 0.3]])
    records += samples.finals(records, how, [float(x) for x in scores.ravel()])
    outcome = standing(records, how)
    assert outcome is not None
    told = {c.choice: c for c in outcome.contrasts}
    assert {*told} == {"algorithm", "bias"}
    assert len(outcome.contrasts) == 2
    assert told["algorithm"].better.variant == found["momentum"]
    assert told["algorithm"].worse.variant == found["gd"]
    assert told["algorithm"].shown
    assert told["algorithm"].gap == pytest.approx(np.mean(scores[:, 0] - scores[:, 1]))
    assert told["bias"].better.variant == found["gd"]
    assert not told["bias"].shown
    left = scores.T - scores.T.mean(0) - scores.T.mean(1, keepdims=True) + scores.mean()
    error = np.sqrt((left**2).sum() / 6 / 3)
    for contrast in outcome.contrasts:
        assert contrast.margin >= studentized_range.ppf(0.95, 4, 6) * error * (1 - 1e-9)
    said = reasons.contrasts(outcome)
    assert len(said) == 3
    entries = best_per_variant(records, how)
    said.append(reasons.untold(entries, outcome, how))
    assert said[-1] == (
        "What bias and retention do for the first is not shown: miras-search resume STUDY "
        "ablations=true runs variants that differ from the first in one choice."
    )
    assert reasons.untold(entries[:4], outcome, how) is None
    assert reasons.untold(entries, None, how) is None
    asked = how.model_copy(update={"ablations": True})
    other = reasons.untold(entries, outcome, asked)
    assert other is not None
    assert other.endswith("from another finalist, which an ablation has passed.")
    assert said[0].startswith(
        "With memory=matrix, bias=l2, retention=none: "
        "algorithm=momentum is better than algorithm=gd by 0.3000 \u00b1"
    )
    assert "bias=l2 is ahead of bias=huber by 0.0100 \u00b1" in said[1]
    assert said[1].endswith("in mean accuracy, which does not tell them apart.")
    _, shown = check(write_report(samples.folder(tmp_path / "study", how, records)).read_text())
    flat = " ".join(printed(records, how, 80).split())
    for sentence in said:
        # What is shown stands beside the first, and with the others where it is explained.
        assert shown.count(sentence) == (2 if "is better than" in sentence else 1)
        assert sentence in flat
    places = [shown.index(sentence) for sentence in said]
    assert places[0] < shown.index("What made a difference") < min(places[1:])


def test_a_winner_of_finals_that_were_made_larger_is_less_sure():
    """Each look at equal variants shows one in 5 % at most, so two looks in 10 %."""
    how = samples.recipe(finalists=2, seeds=3)
    searched = [
        samples.record(i, variant, 0.9 - 0.1 * i, how=how)
        for i, variant in enumerate(samples.variants()[:2])
    ]
    apart = [0.9, 0.1, 0.91, 0.11, 0.9, 0.12, 0.92, 0.11, 0.91, 0.1]
    small = searched + samples.finals(searched, how, apart[:6])
    outcome = standing(small, how)
    assert outcome is not None
    assert "would be said of at most 5% of studies." in sentences.finals(outcome)[0]
    larger = how.model_copy(update={"seeds": 5})
    added = samples.finals(searched, larger, apart)[6:]
    outcome = standing(small + added, larger)
    assert outcome is not None
    assert not outcome.tied
    told = sentences.finals(outcome)[0]
    assert "would be said of at most 10% of studies. That is 5% for each of the 2 sizes " in told
    for sentence in (*reasons.contrasts(outcome)[-1:], *sentences.finals(outcome)[-1:]):
        assert "at one look: the 2 sizes that these finals had are not allowed for" in sentence
    again = judged_by(outcome, larger, "test/accuracy")
    assert again is not None
    assert again.looks == 2
    searched_on = [
        run.model_copy(update={"recipe": run.recipe | {"trials": 2 + i % 2}})
        for i, run in enumerate(small)
    ]
    more = standing(searched_on, how)
    assert more is not None
    assert more.looks == 2
    at_once = searched + samples.finals(searched, larger, apart)
    outcome = standing(at_once, larger)
    assert outcome is not None
    assert "would be said of at most 5% of studies." in sentences.finals(outcome)[0]
    smaller = standing(at_once, how)
    assert smaller is not None
    assert smaller.looks == 2


def test_nothing_is_corrected_where_nothing_was_chosen():
    how = samples.recipe(finalists=2, seeds=3)
    searched = [
        samples.record(i, variant, 0.9 - 0.1 * i, how=how)
        for i, variant in enumerate(samples.variants()[:2])
    ]
    for finalists, said in ((2, True), (1, False)):
        fewer = how.model_copy(update={"finalists": finalists})
        runs = samples.finals(searched, fewer, [0.9, 0.1, 0.91, 0.11, 0.92, 0.12][: 3 * finalists])
        outcome = standing(searched + runs, fewer)
        assert outcome is not None
        assert ("luck of being chosen" in " ".join(sentences.finals(outcome))) == said


@pytest.mark.parametrize("lucky", [True, False])
def test_the_terminal_ends_on_the_verdict_and_the_page_says_no_number_twice(tmp_path, lucky):
    """Where each seed alone has another first, the mean of the first owes something to luck."""
    how = samples.recipe(finalists=2, seeds=3)
    records = [
        samples.record(i, variant, 0.9 - 0.1 * i, how=how)
        for i, variant in enumerate(samples.variants()[:2])
    ]
    scores = [0.9, 0.5, 0.5, 0.8, 0.6, 0.6] if lucky else [0.9, 0.1, 0.91, 0.11, 0.92, 0.12]
    records += samples.finals(records, how, scores)
    outcome = standing(records, how)
    assert outcome is not None
    assert (text.score(outcome.corrected) == text.score(outcome.first.mean)) == (not lucky)
    flat = " ".join(printed(records, how, 80).split())
    caveat = sentences.caveats(best_per_variant(records, how), how, outcome)[0]
    assert 0 < flat.index(caveat) < flat.index(sentences.finals(outcome)[0])
    assert ("luck of being chosen is the same" in flat) == (not lucky)
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    assert ("<dt>estimate without the luck of being chosen</dt>" in page) == lucky


def test_what_did_not_run_yet_is_told(tmp_path):
    """Of a study that was interrupted, and of the search alone."""
    how = samples.recipe(trials=10, finalists=1, seeds=3)
    records = [samples.record(i, samples.variants()[i], 0.5, how=how) for i in range(2)]
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    assert "2 of 2 trials completed. 8 more of the search did not run yet." in page
    done = [samples.record(i, samples.variants()[i], 0.5, how=how) for i in range(10)]
    done += samples.finals(done, how, [0.5, 0.4, 0.6])
    assert sentences.completed(done) == "13 of 13 trials completed."
    assert sentences.completed(done, 4).endswith(" 4 more of the search did not run yet.")


def test_what_means_nothing_is_no_difference():
    l2 = samples.variants()[0]
    dot = l2.replace(bias=samples.variants()[-1].bias, chunk=1)
    assert dot.single_difference(l2) == l2.single_difference(dot) == "bias"
    assert l2.single_difference(l2.replace(chunk=1)) == "chunk"
    assert l2.single_difference(l2) is None
    assert samples.variants()[1].single_difference(samples.variants()[8]) is None
    assert samples.variants()[-1].single_difference(l2) is None
    assert dot.ignores("chunk", [1, 16, 64])
    assert not l2.ignores("chunk", [64, l2.chunk])
    assert l2.ignores("qk_norm", [l2.memory.preferred_qk_norm])
    assert not l2.ignores("qk_norm", [l2.memory.preferred_qk_norm, "rms"])


def test_nothing_is_said_of_what_means_nothing_to_a_memory_that_keeps_pairs(tmp_path):
    how, variants = samples.recipe(), samples.variants()
    records = [samples.record(0, variants[-1], 0.9), samples.record(1, variants[0], 0.5)]
    records.append(samples.record(2, variants[9], 0.4))
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    top = page[: page.index("What to hold a score against")]
    assert str(variants[-1]) == "attention | - | - | - | chunk=16"
    assert str(variants[-1]).replace(" |", "\xa0|") in top
    assert "Each token moves the weights" not in top
    (picture,) = [
        p for p in figures.draw(best_per_variant(records, how), how) if p.name == "choices"
    ]
    found = {(row["axis"], row["choice"], row["score"]) for row in picture.data}
    assert ("memory", "attention", 0.9) in found
    assert {score for axis, _, score in found if axis != "memory"} == {0.5, 0.4}


def test_caveats_say_only_what_is_so():
    recipe, (first, second) = samples.recipe(), samples.variants()[:2]
    alone = best_per_variant([samples.record(0, first, 0.2)], recipe)
    assert any("plateau (0.25)" in told for told in sentences.caveats(alone, recipe))
    good = [samples.record(0, first, 0.9), samples.record(0, second, 0.8, seed=1)]
    told = " ".join(sentences.caveats(best_per_variant(good, recipe), recipe))
    assert "plateau" not in told
    assert "One seed" not in told
    assert "not matched" not in told
    assert "tied" not in told
    equal = [samples.record(0, first, 0.9), samples.record(1, second, 0.9)]
    assert "first 2 are tied" in " ".join(
        sentences.caveats(best_per_variant(equal, recipe), recipe)
    )
    assert sentences.caveats([], recipe) == []


def test_a_page_of_several_seeds_says_which_one_its_command_repeats(tmp_path):
    how = samples.recipe()
    for seeds in ([0], [0, 1]):
        records = [
            samples.record(i, samples.variants()[i % 2], 0.5 + i / 10, how=how, seed=seed)
            for i, seed in enumerate(seeds * 2)
        ]
        folder = samples.folder(tmp_path / f"of-{len(seeds)}", how, records)
        page = " ".join(write_report(folder).read_text().split())
        assert ("the search with seed 0: this study was merged of several" in page) == (
            seeds != [0]
        )
        assert f"seed{'s 0 and 1' if seeds != [0] else ' 0'}</td>" in page


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_it_is_told_where_finals_have_the_examples_of_the_search(task):
    how = samples.recipe(task, finalists=2, seeds=3)
    searched = [
        samples.record(i, v, 0.9 - i / 10, how=how) for i, v in enumerate(samples.variants()[:2])
    ]
    records = [*searched, *samples.finals(searched, how, (0.8, 0.4, 0.9, 0.5, 1.0, 0.6))]
    entries, outcome = best_per_variant(records, how), standing(records, how)
    for ended in (outcome, None):
        told = " ".join(sentences.caveats(entries, how, ended))
        assert ("scored on the same examples" in told) == (task == "bytes" and ended is not None)


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_how_far_scores_of_several_seeds_moved_is_told(task):
    """The best with each seed, of those variants that had several."""
    recipe, sign = samples.recipe(task), 1 if task == "mqar" else -1
    scores = [
        [(0, 0.5), (1, 0.6), (1, 0.3)],
        [(0, 0.5), (2, 0.7)],
        [(0, 0.8), (1, 0.5)],
        [(0, 0.1)],
    ]
    records = [
        samples.record(10 * i + j, variant, sign * score, how=recipe, seed=seed)
        for i, (variant, own) in enumerate(zip(samples.variants(), scores, strict=False))
        for j, (seed, score) in enumerate(own)
    ]
    told = " ".join(sentences.caveats(best_per_variant(records, recipe), recipe))
    assert "the best score moved by 0.2000 in the median of 3 variants, so a small" in told
    assert "not known" not in told
    one = [record for record in records if record.seed == 0]
    told = " ".join(sentences.caveats(best_per_variant(one, recipe), recipe))
    assert "How far a score moves from seed to seed is not known, so a small" in told


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("parameters", "Parameters are not matched: the largest model has 1.50 times"),
        ("state_bytes", "States are not matched: after 64 tokens the largest is 1.50 times"),
    ],
)
def test_what_was_not_given_alike_is_told(field, words):
    first, second = samples.variants()[:2]
    quantity = "params" if field == "parameters" else "state"
    other = {"params": "state", "state": "params"}[quantity]
    for matched in (None, quantity, other):
        how = samples.recipe(**({"match": {matched: 4096, "tolerance": 0.5}} if matched else {}))
        records = [
            samples.record(5 * i, variant, 0.9, how=how, **{field: size})
            for i, (variant, size) in enumerate([(first, 200_000), (second, 300_000)])
        ]
        told = " ".join(sentences.caveats(best_per_variant(records, how), how))
        assert (words in told) == (matched != quantity)
    nearly = [r.model_copy(update={field: 100 + i}) for i, r in enumerate(records)]
    assert f"{words[:12]}" in " ".join(sentences.caveats(best_per_variant(nearly, how), how))
    nearer = [r.model_copy(update={field: 1000 + i}) for i, r in enumerate(records)]
    assert words[:12] not in " ".join(sentences.caveats(best_per_variant(nearer, how), how))


def test_rates_at_the_edge_are_told():
    recipe, (first, second) = samples.recipe(), samples.variants()[:2]

    def told(*scores):
        """Of two variants, each at three rates."""
        found = [
            samples.record(i, (first, second)[i // 3], score, lr=1e-3 * 2 ** (i % 3))
            for i, score in enumerate(scores)
        ]
        return [
            c for c in sentences.caveats(best_per_variant(found, recipe), recipe) if "tried" in c
        ]

    assert told(0.1, 0.2, 0.3, 0.1, 0.3, 0.2) == []  # one of two
    (high,) = told(0.1, 0.2, 0.3, 0.1, 0.2, 0.4)
    assert high.startswith("2 of 2 variants did best at the highest learning rate tried, 0.004:")
    (low,) = told(0.3, 0.2, 0.1, 0.4, 0.2, 0.1)
    assert low.startswith("2 of 2 variants did best at the lowest learning rate tried, 0.001:")
    assert told(0.3, 0.3, 0.3, 0.4, 0.2, 0.1) == []  # alike at every rate is best at none
    (alone,) = told(0.3, 0.2, 0.1)
    assert alone.startswith("The best learning rate, 0.001, is the lowest that was tried:")
    assert told(0.3, 0.3, 0.3) == []
    # Of two rates each is an edge, whoever did best where.
    two = [
        samples.record(i, v, 0.5 + i / 10, lr=1e-3 * (i + 1)) for i, v in enumerate((first, second))
    ]
    said = " ".join(sentences.caveats(best_per_variant(two, recipe), recipe))
    assert "Two learning rates were tried, each an edge" in said
    one_rate = [samples.record(0, first, 0.9), samples.record(1, second, 0.8)]
    assert "rate tried" not in " ".join(
        sentences.caveats(best_per_variant(one_rate, recipe), recipe)
    )


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_who_leads_elsewhere_is_told(task):
    recipe = samples.recipe(task, finalists=2, seeds=3)
    sign = 1 if task == "mqar" else -1
    first, second = samples.variants()[:2]
    name = f"test/{recipe.task.metric}"

    def told(tests, records=()):
        found = [
            samples.record(i, v, sign * (0.9 - i / 10), how=recipe, metrics={name: sign * value})
            for i, (v, value) in enumerate(zip((first, second), tests, strict=True))
        ]
        found += records
        entries = best_per_variant(found, recipe)
        caveats = sentences.caveats(entries, recipe, standing(found, recipe))
        return [caveat for caveat in caveats if "another one leads" in caveat], found

    assert told((0.9, 0.8))[0] == []
    assert told((0.8, 0.8))[0] == []
    (caveat,), found = told((0.7, 0.8))
    assert caveat.startswith("On test another one leads in the search, by one run each: matrix")
    values = f"{text.score(sign * 0.8)} against {text.score(sign * 0.7)} of the first"
    assert caveat.endswith(f"{values}.")
    # What is no number leads nowhere, and is behind nobody.
    assert told((0.9, sign * math.nan))[0] == []
    assert told((sign * math.inf, 0.8))[0] == []
    # In the finals the second is first, and the test agrees.
    runs = samples.finals(found, recipe, [sign * x for x in (0.5, 0.6) * 3])
    assert told((0.7, 0.8), runs)[0] == []
    # It does not: the first of the finals is behind, by more than chance, or by less.
    for noise, worth in ((0.001, "which is behind it"), (0.2, "which does not tell them apart")):
        tests = [0.8 + noise, 0.7, 0.8, 0.7 + noise, 0.8 + noise / 2, 0.7]
        again = [
            run.model_copy(update={"metrics": {name: sign * value}})
            for run, value in zip(runs, tests, strict=True)
        ]
        (caveat,), _ = told((0.7, 0.8), again)
        assert caveat.startswith("On test another one leads in the finals: matrix")
        assert caveat.endswith(f"of the first, {worth}.")
    # Who was in no finals may lead there all the same.
    third = samples.record(9, samples.variants()[2], sign * 0.1, how=recipe)
    third = third.model_copy(update={"metrics": {name: sign * 0.95}})
    (_, caveat), _ = told((0.7, 0.8), [*again, third])
    assert caveat.startswith("On test another one leads in the search, by one run each: ")
    assert caveat.endswith(
        f"{text.score(sign * 0.95)} against {text.score(sign * 0.8)} of the first."
    )


def test_trials_that_ended_alike_are_told_as_one():
    """Their reasons differ in numbers alone; of others each is told, most frequent first."""
    how, variant = samples.recipe(), samples.variants()[0]

    def failed(number, state, reason):
        fields = {"state": state, "reason": reason}
        return samples.record(number, variant, None, how=how).model_copy(update=fields)

    records = [
        failed(i, "diverged", f"the loss was nan at step {30 - i} of 100") for i in range(20)
    ]
    records += [failed(20, "failed", "no room: 1.50 GB"), failed(21, "failed", "no room: 12 GB")]
    records += [failed(22, "failed", "no room for 12 GB"), failed(23, "diverged", "why")]
    records += [failed(24, "failed", "off by 1e-05"), failed(25, "failed", "off by 2.5e-07")]
    assert [(f.state, f.reason, f.numbers) for f in failures(records)] == [
        ("diverged", "the loss was nan at step 11 to 30 of 100", (*range(20),)),
        ("failed", "no room: 1.50 to 12 GB", (20, 21)),
        ("failed", "off by 2.5e-07 to 1e-05", (24, 25)),
        ("failed", "no room for 12 GB", (22,)),
        ("diverged", "why", (23,)),
    ]
    assert sentences.endings(records).endswith(
        "21 diverged: the loss was nan at step 11 to 30 of 100, and 1 more reason. "
        "5 failed: no room: 1.50 to 12 GB, and 2 more reasons."
    )


def test_how_well_early_scores_foretell_late_ones_is_told():
    base = samples.study(samples.recipe())[0]
    point = base.curve[0]

    def trial(i):
        early = (5, -i, i)
        curve = [point.model_copy(update={"step": s, "score": x}) for s, x in enumerate(early, 1)]
        own = {"number": i, "score": i, "curve": tuple(curve), "recipe": base.recipe | {"steps": 3}}
        return base.model_copy(update=own)

    told = sentences.foretelling([trial(i) for i in range(12)])
    low = correlation(range(12), range(0, -12, -1))
    assert low is not None
    # At step 1 all are equal: there is no order.
    expected = f"intervals: -1.00 [-1.00, {low.high:.2f}] at step 2."
    assert told is not None
    assert told.endswith(f"over 12 trials, with 95 % {expected}")
    # Runs of the finals are seeds of few variants, and foretell nothing of others.
    again = [trial(i).model_copy(update={"phase": "finals"}) for i in range(12)]
    assert sentences.foretelling([*[trial(i) for i in range(12)], *again]) == told
    assert sentences.foretelling(again) is None
    assert sentences.foretelling([trial(i) for i in range(9)]) is None
    # What was stopped has no final score: those that have one are the more alike for it.
    stopped = trial(0).model_copy(update={"state": "pruned", "score": None})
    told = sentences.foretelling([*[trial(i) for i in range(12)], stopped])
    assert told is not None
    assert told.endswith(
        "12 trials: -1.00 at step 2. Without the 1 that was stopped it is smaller than over all."
    )


def test_the_last_evaluation_foretells_where_it_is_not_the_end():
    base = samples.study(samples.recipe())[0]

    def trial(i):
        curve = tuple(base.curve[0].model_copy(update={"step": s, "score": i}) for s in (34, 68))
        own = {"number": i, "score": i, "curve": curve, "recipe": base.recipe | {"steps": 100}}
        return base.model_copy(update=own)

    told = sentences.foretelling([trial(i) for i in range(12)])
    assert told is not None
    assert told.endswith("at step 68.")

"""What is said of a study and of what it does not show, from records made by hand."""

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import study_samples as samples
from report_page import check
from scipy.stats import studentized_range
from study_samples import figure_rows, planted, printed

from miras_search import wandb_report
from miras_search.finals import judged_by, standing
from miras_search.folder import StudyFolder
from miras_search.registry import CHOICES, kinds
from miras_search.report import figures, sentences, text
from miras_search.report.differences import Company, Differences, differences
from miras_search.report.failures import failures
from miras_search.report.html import write_report
from miras_search.report.leaderboard import Entry, best_per_variant, shared_choices
from miras_search.stats.ranks import correlation
from miras_search.tasks.base import METRICS
from miras_search.variant import Variant


def test_what_made_a_difference_is_told_and_nothing_else(how, tmp_path):
    records = planted(how, mlp=0.1, momentum=-0.1)
    found = differences(best_per_variant(records, how), how)
    assert {effect.name for effect in found.shown} == {"memory", "algorithm"}
    assert found.variants == len(samples.variants()) - 1  # attention is alone
    assert not found.settings  # none differs within a kind
    assert [*found.against_mean["memory"]] == ["mlp", "matrix"]
    better, worse = found.against_mean["memory"].values()
    sign = 1 if how.task.direction == "maximize" else -1
    assert better == pytest.approx(0.05 * sign, abs=0.02)
    assert worse == pytest.approx(-better)
    flat = " ".join(printed(records, how, 100).split())
    assert re.search(r"made a difference over 24 variants: memory \(\d\d%\), algo\w+ \(", flat)
    metric = how.task.metric.replace("_", " ")
    ahead = f"mlp is ahead of matrix by {text.score(abs(better - worse))} {metric} on average"
    why = f"memory made a difference: {ahead}, all other axes equal."
    assert why in flat
    assert len(sentences.directions(found, how)) == 2
    folder = samples.folder(tmp_path / "study", how, records)
    assert why in wandb_report._description(folder)
    page = write_report(folder).read_text()
    assert "Kinds, with all other axes equal" in page
    assert "Which of three or more differ was not tested." not in page
    assert page.index(why) < page.index("What this ranking does not show")
    told = figure_rows(folder, "effects")
    assert {row["effect"] for row in told if row["shown"] == "True"} == {"memory", "algorithm"}
    assert [row["effect"] for row in told][:3] == ["memory", "memory x bias", "bias"]
    for row in told:
        effect = found.found[row["effect"]]
        assert float(row["share"]) == effect.share
        told_there = f"{effect.name}: {text.percent(effect.share or 0.0)} of the variance"
        assert f"<title>{told_there}, p {effect.p:.2g}, q {effect.q:.2g}</title>" in page
    kinds = {(r["axis"], r["kind"]): float(r["difference"]) for r in figure_rows(folder, "kinds")}
    assert kinds == {
        (axis, kind): value
        for axis in ("memory", "algorithm")
        for kind, value in found.against_mean[axis].items()
    }


def test_an_axis_is_not_told_where_another_field_goes_with_it(how):
    """What the one does cannot be told from what the other does."""

    def starting(zero: Callable[[Variant], bool]) -> Differences | None:
        records = []
        for record in planted(how, mlp=0.1):
            variant = Variant.from_dict(record.variant)
            if zero(variant):
                variant = variant.replace(initial_memory="zero")
            changes = {"variant": variant.to_dict(), "digest": variant.digest}
            records.append(record.model_copy(update=changes))
        return differences(best_per_variant(records, how), how)

    apart = starting(lambda variant: variant.memory.kind == "matrix" and variant.bias.kind == "l2")
    assert apart is not None
    assert "memory" in {effect.name for effect in apart.shown}
    together = starting(lambda variant: variant.memory.kind == "matrix")
    assert together is not None
    assert together.found["memory"].p is None
    assert together.found["initial_memory"].p is None
    assert {*together.against_mean["memory"].values()} == {None}
    assert not sentences.directions(together, how)
    crossed = starting(lambda v: (v.memory.kind == "mlp") == (v.algorithm.kind == "momentum"))
    assert crossed is not None
    assert crossed.found["memory"].p is not None
    assert crossed.found["memory x algorithm"].p is None


@pytest.mark.parametrize(("axis", "beside"), [("algorithm", "memory"), ("memory", "bias")])
def test_of_a_pair_it_is_told_what_one_does_beside_each_kind_of_the_other(how, axis, beside):
    """Against the mean over variants that are alike in all else; the one has two kinds."""
    sign = 1 if how.task.direction == "maximize" else -1
    axes = [name for name in CHOICES if name in (axis, beside)]
    better, other = {"algorithm": ("gd", "momentum"), "memory": ("mlp", "matrix")}[axis]
    last = {"memory": "matrix", "bias": "huber"}[beside]
    records = []
    for record in planted(how):
        if record.variant[axis]["kind"] == better:
            more = -0.2 if record.variant[beside]["kind"] == last else 0.5
            record = record.model_copy(update={"score": record.score + sign * more})
        records.append(record)
    entries = best_per_variant(records, how)
    found = differences(entries, how)
    assert found is not None
    gaps: dict[str, list[float]] = defaultdict(list)
    for one in entries:
        for two in entries:
            if one.variant.single_difference(two.variant) != axis:
                continue
            if getattr(one.variant, axis).kind == better:
                gap = sign * (one.best.score - two.best.score)
                gaps[getattr(one.variant, beside).kind].append(gap)
    company = found.companies[" x ".join(axes)]
    assert (company.axis, company.better, company.other) == (axis, better, other)
    assert {len(gap) for gap in gaps.values()} == {24 // 2 // len(gaps)}
    assert company.gains == {kind: pytest.approx(np.mean(gap)) for kind, gap in gaps.items()}
    gains = [*company.gains.items()]
    assert gains == sorted(gains, key=lambda gain: -gain[1])
    told = next(s for s in sentences.directions(found, how) if s.startswith(" x ".join(axes)))
    (first, gain), *_, (worst, loss) = gains
    assert worst == last
    metric = how.task.metric.replace("_", " ")
    assert (
        f"{axis} {better} is ahead of {other} by {text.score(gain)} {metric} on average "
        f"with {first}" in told
    )
    end = f" and behind by {text.score(-loss)} with {worst}"
    more = "which of these differ was not tested"
    if len(gaps) == 2:
        more = "that the two differ was tested, and neither alone"
    assert told.endswith(f"{end}; {more}.")


def test_a_field_that_means_nothing_makes_no_difference(how):
    """The gradient of dot never looks at a matrix, so that any chunk is exact there, and the
    simplest of these variants has 1."""
    dot = samples.variants()[-1].bias

    def study(simplest: bool) -> list[Entry]:
        records = []
        for record in planted(how, l2=-0.2):
            variant = Variant.from_dict(record.variant)
            if variant.bias.kind == "huber":
                variant = variant.replace(bias=dot)
            variant = variant.canonical if simplest else variant
            changes = {"variant": variant.to_dict(), "digest": variant.digest}
            records.append(record.model_copy(update=changes))
        return best_per_variant(records, how)

    entries = study(simplest=True)
    chunks = {(e.variant.memory.kind, e.variant.bias.kind): e.variant.chunk for e in entries}
    assert chunks["matrix", "dot"] == 1
    assert chunks["mlp", "dot"] == 16
    assert shared_choices(entries) == {"chunk": 16}
    found = differences(entries, how)
    assert found is not None
    assert "chunk" not in found.found
    plain = differences(study(simplest=False), how)
    assert plain is not None
    assert found == replace(plain, alone=found.alone)
    # Where it does differ, the variants that it means nothing to are no third value of it.
    wider = [
        replace(e, variant=e.variant.replace(chunk=32))
        if e.variant.chunk == 16 and e.variant.algorithm.kind == "gd"
        else e
        for e in entries
    ]
    told = differences(wider, how)
    assert told is not None
    assert told.found["chunk"].variants == sum(e.variant.chunk > 1 for e in wider)
    assert "chunk" not in shared_choices(wider)


def test_the_best_of_several_rates_is_no_choice(how):
    """It comes of the scores: where a better score goes with a higher rate, no rate need do it."""
    rng = random.Random(0)

    def study(rates: Callable[[float], list[float]]) -> Differences:
        records = []
        for record in planted(how):
            worth = rng.gauss(0, 1)
            for i, lr in enumerate(rates(worth)):
                changes = {"number": len(records), "lr": lr, "score": 0.5 + 0.1 * worth + 1e-3 * i}
                records.append(record.model_copy(update=changes))
        found = differences(best_per_variant(records, how), how)
        assert found is not None
        return found

    up = how.task.direction == "maximize"
    several = study(lambda worth: [1e-3, 3e-3] if (worth > 0) is up else [3e-3, 1e-3])
    assert "learning rate" not in several.found
    one = study(lambda worth: [1e-3 if worth > 0 else 3e-3])
    assert "learning rate" in {effect.name for effect in one.shown}


@pytest.mark.parametrize("what", ["lr", "seed"])
def test_an_axis_is_not_told_where_the_rates_or_the_seed_go_with_it(how, what):
    """Also where a variant had several rates, so that the best of them says nothing."""
    records = []
    for record in planted(how, mlp=0.1):
        deep = record.variant["memory"]["kind"] == "mlp"
        for i in range(2):
            changes = {"lr": (1 + i) * (1e-3 if deep and what == "lr" else 1e-2)}
            changes |= {"seed": int(deep and what == "seed"), "number": len(records)}
            records.append(record.model_copy(update=changes))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert found.found["memory"].p is None
    assert found.found["bias"].p is not None
    assert not sentences.directions(found, how)
    told = " ".join(sentences.differences(found))
    assert ("of 2 seeds" in told) == (what == "seed" and bool(found.shown))


def test_what_is_level_is_not_called_behind():
    how = samples.recipe()
    found = differences(best_per_variant(planted(how), how), how)
    assert found is not None
    effect = replace(found.found["memory x algorithm"], q=0.001)
    one, other = effect.name.split(" x ")
    for gains, words in (
        (
            {"a": 0.2, "b": 1e-9},
            "is ahead of w by 0.2000 accuracy on average with a and level with b",
        ),
        ({"a": 0.0, "b": -0.1}, "is level with w with a and behind by 0.1000 with b"),
    ):
        company = Company(other, "v", "w", gains)
        told = replace(
            found, found={effect.name: effect}, companies={effect.name: company}, axes=[one, other]
        )
        (said,) = sentences.directions(told, how)
        assert f"{other} v {words}; that the two differ was tested, and neither alone." in said
    # And of an axis it is said where its pair with another is shown as well.
    axis = replace(found.found["memory"], q=0.001)
    both = replace(found, found={"memory": axis, effect.name: effect})
    about = next(s for s in sentences.directions(both, how) if s.startswith("memory made"))
    assert about.endswith("axes equal; not alike in all company, as memory x algorithm tells.")
    kinds = {"mlp": 0.1, "matrix": -0.1, "vector": None}
    three = replace(
        found, found={"memory": axis}, against_mean=found.against_mean | {"memory": kinds}
    )
    (said,) = sentences.directions(three, how)
    assert "the first and the last of those of its kinds that can be compared; which" in said


def test_an_axis_is_not_told_where_more_trials_go_with_it(how):
    """Of noise the best of nine is better than the best of two."""
    rng = random.Random(0)
    records = []
    for record in planted(how):
        for _ in range(9 if record.variant["memory"]["kind"] == "mlp" else 2):
            changes = {"number": len(records), "score": 0.5 + 0.1 * rng.gauss(0, 1)}
            records.append(record.model_copy(update=changes))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert found.found["memory"].p is None
    assert {*found.against_mean["memory"].values()} == {None}


def test_an_axis_is_not_told_for_a_setting_that_goes_with_it(how):
    """Here p is 3 with each matrix and 1.5 with each mlp, and is all that makes a difference."""
    sign = 1 if how.task.direction == "maximize" else -1
    records = []
    for record in planted(how):
        variant, more = Variant.from_dict(record.variant), 0.0
        if variant.bias.kind == "lp" and variant.memory.kind == "mlp":
            variant = variant.replace(bias=variant.bias.model_copy(update={"p": 1.5}))
        elif variant.bias.kind == "lp":
            more = 0.4
        changes = {"variant": variant.to_dict(), "digest": variant.digest}
        changes["score"] = record.score + sign * more
        records.append(record.model_copy(update=changes))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert found.found["memory"].p is not None
    assert not {"memory", "memory x bias"} & {effect.name for effect in found.shown}
    assert max(abs(x or 0.0) for x in found.against_mean["memory"].values()) < 0.05


@pytest.mark.parametrize("side", ["none", "initial_memory"])
def test_further_axes_are_equal_where_a_pair_is_told_of(side):
    """Sums of known parts and no noise: least squares find them from some of the combinations."""
    how, rng = samples.recipe(), random.Random(3)
    worth = {("mlp", "gd"): 0.3, ("mlp", "momentum"): 0.0, ("matrix", "momentum"): 0.1}
    further = {"lp": 0.2, "huber": -0.1, "l2": 0.0, "none": 0.25, "l2 gate": 0.0}
    records = []
    for variant in rng.sample(samples.variants()[:-1], 18):
        score = 0.4 + worth.get((variant.memory.kind, variant.algorithm.kind), 0.0)
        score += further[variant.bias.kind] + 0.25 * (variant.retention.kind == "none")
        if side != "none" and rng.random() < 0.5:
            variant, score = variant.replace(initial_memory="zero"), score - 0.15
        records.append(samples.record(len(records), variant, score, how=how))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    company = found.companies["memory x algorithm"]
    sign = 1 if company.better == "gd" else -1
    expected = {"mlp": sign * 0.3, "matrix": -sign * 0.1}
    assert company.gains == {kind: pytest.approx(gain) for kind, gain in expected.items()}
    # Where a kind was never tried beside another, nothing is told of the pair.
    fewer = [
        r
        for r in records
        if (r.variant["memory"]["kind"], r.variant["algorithm"]["kind"]) != ("mlp", "gd")
    ]
    told = differences(best_per_variant(fewer, how), how)
    assert told is not None
    assert "memory x algorithm" not in told.companies
    assert "memory x bias" in told.companies


def test_who_is_left_out_is_told():
    """Also those who are left alone when others are."""
    how = samples.recipe()
    records = planted(how, mlp=0.1)
    lone = [r for r in records if r.variant["memory"]["kind"] == "attention"]
    assert len(lone) == 1
    kept = [r for r in records if r.variant["bias"]["kind"] != "huber" and r not in lone]
    other = next(r for r in records if r.variant["bias"]["kind"] == "huber")
    paired = Variant.from_dict(lone[0].variant).replace(
        memory=Variant.from_dict(kept[0].variant).memory,
        bias=Variant.from_dict(other.variant).bias,
        retention=next(
            kind() for name, kind in kinds("retention").items() if name == "elastic_net"
        ),
    )
    changes = {"variant": paired.to_dict(), "digest": paired.digest, "number": 99}
    records = [*kept, *lone, other, lone[0].model_copy(update=changes)]
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert found.variants == len(kept)
    told = sentences.differences(found)[-1]
    assert told.startswith("Left out, with a kind that no other variant has: ")
    for variant in (Variant.from_dict(other.variant), paired, Variant.from_dict(lone[0].variant)):
        assert str(variant) in told
    assert "of seed 0 alone: another seed may show" in " ".join(sentences.differences(found))


def test_where_nothing_can_be_judged_that_is_said():
    how = samples.recipe()
    records = [r.model_copy(update={"score": 0.5}) for r in planted(how)]
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert sentences.differences(found) == [
        "Of no axis, pair of axes or setting do the trials tell whether it made a difference."
    ]


def test_of_three_kinds_it_is_not_said_which_differ():
    how = samples.recipe()
    found = differences(best_per_variant(planted(how, huber=0.2), how), how)
    assert found is not None
    (told,) = sentences.directions(found, how)
    kinds = [*found.against_mean["bias"]]
    assert kinds[0] == "huber"
    assert told.startswith(f"bias made a difference: huber is ahead of {kinds[-1]} by ")
    assert told.endswith(
        "axes equal, the first and the last of its kinds; which of them differ was not tested."
    )
    assert not sentences.directions(replace(found, least=0.0), how)


def test_more_is_asked_of_an_effect_where_the_sampler_learned():
    """What is said, and in the mean over studies how much of it may be false: statistics.md."""
    found = {}
    for sampler in ("random", "grid", "gp", "tpe"):
        how = samples.recipe(sampler=sampler)
        found[sampler] = differences(best_per_variant(planted(how, mlp=0.1), how), how)
    assert {name: made.least for name, made in found.items()} == {
        **dict.fromkeys(("random", "grid"), 0.05),
        **dict.fromkeys(("gp", "tpe"), 0.01),
    }
    # A study that goes on at random has what was learned before.
    how, learned = (samples.recipe(sampler=name) for name in ("random", "gp"))
    mixed = differences(best_per_variant(planted(learned, mlp=0.1), how), how)
    assert mixed is not None
    assert mixed.least == 0.01
    between = replace(found["gp"].found["bias"], q=0.03)
    assert found["random"].shows(between)
    assert not found["gp"].shows(between)


def test_noise_makes_no_difference(how, tmp_path):
    records = planted(how)
    assert "none is shown to make a difference" in " ".join(printed(records, how, 100).split())
    folder = samples.folder(tmp_path / "study", how, planted(how, mlp=0.1))
    write_report(folder)
    assert {row["axis"] for row in figure_rows(folder, "kinds")} == {"memory"}
    (folder.figures / "mine.svg").write_text("of the user")
    for record in records:
        record.write(folder.record_file(record.number))
    folder = StudyFolder(folder.path)
    page = write_report(folder).read_text()
    assert f"validation {how.task.metric.replace('_', ' ')}, {METRICS[how.task.metric]}: " in page
    assert "with all other axes equal" not in page
    assert page.index("none is shown to make") < page.index("What this ranking does not show")
    assert (folder.figures / "mine.svg").exists()
    assert {row["shown"] for row in figure_rows(folder, "effects")} == {"False"}
    assert not (folder.figures / "kinds.csv").exists()


def test_a_kind_of_one_variant_is_not_judged(how):
    records = planted(how, mlp=0.1)
    before = differences(best_per_variant(records, how), how)
    assert before is not None
    alone = samples.variants()[0].replace(memory=kinds("memory")["slots"](slots=8))
    odd = samples.record(len(records), alone, 0.0, how=how)
    found = differences(best_per_variant([*records, odd], how), how)
    assert found is not None
    assert found == replace(before, alone=found.alone)


def test_settings_are_judged_among_the_variants_that_have_them():
    how = samples.recipe()
    base = samples.variants()[0]
    records = []
    for i in range(24):
        variant = base.replace(memory=kinds("memory")["slots"](slots=8 + i)) if i % 2 else base
        variant = variant.replace(chunk=1 + 7 * i % 24)
        records.append(samples.record(i, variant, 0.5 + 0.01 * i * (i % 2), how=how))
    found = differences(best_per_variant(records, how), how)
    judged = {effect.name: effect for effect in found.settings}
    assert judged["memory.slots.slots"].variants == 12
    assert judged["memory.slots.slots"].share == pytest.approx(1.0)
    assert judged["chunk"].variants == 24
    assert "learning rate" not in judged  # one for all


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
    said = sentences.contrasts(outcome)
    assert len(said) == 3
    entries = best_per_variant(records, how)
    said.append(sentences.untold(entries, outcome, how))
    assert said[-1].startswith("What retention does for the first is not shown: finals of 5 would ")
    assert said[-1].endswith("alone (miras-search resume STUDY finalists=5).")
    assert sentences.untold(entries[:4], outcome, how) is None
    assert sentences.untold(entries, None, how) is None
    # By score alone, of finals that were not run yet, and of no more than there can be.
    front = how.model_copy(update={"objectives": ("score", "state_bytes")})
    assert sentences.untold(entries, outcome, front) is None
    assert sentences.untold(entries, outcome, how.model_copy(update={"finalists": 6})) is None
    assert sentences.untold([*[entries[3]] * 98, *entries], outcome, how) is None
    assert said[0].startswith(
        "With memory=matrix, bias=l2, retention=none: "
        "algorithm=momentum is better than algorithm=gd by 0.3000 \u00b1"
    )
    assert "bias=l2 is ahead of bias=huber by 0.0100 \u00b1" in said[1]
    assert said[1].endswith("in mean accuracy, which does not tell them apart.")
    _, shown = check(write_report(samples.folder(tmp_path / "study", how, records)).read_text())
    flat = " ".join(printed(records, how, 80).split())
    for sentence in said:
        assert sentence in shown
        assert sentence in flat


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
    assert "at most 5% of studies say so." in sentences.finals(outcome)[0]
    larger = how.model_copy(update={"seeds": 5})
    added = samples.finals(searched, larger, apart)[6:]
    outcome = standing(small + added, larger)
    assert outcome is not None
    assert not outcome.tied
    told = sentences.finals(outcome)[0]
    assert "at most 10% of studies say so. That is 5% for each of the 2 sizes " in told
    for sentence in (*sentences.contrasts(outcome)[-1:], *sentences.finals(outcome)[-1:]):
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
    assert "at most 5% of studies say so." in sentences.finals(outcome)[0]
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
    assert sentences.completed(done, 10) == "13 of 13 trials completed."
    assert sentences.completed(done[4:], 10).endswith(" 4 more of the search did not run yet.")


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


def test_of_few_variants_nothing_is_said(how):
    records = planted(how, mlp=0.1)[:8]
    assert differences(best_per_variant(records, how), how) is None
    told = printed(records, how, 100)
    assert "difference over" not in told
    assert "Effects of axes are not judged: that takes 12 variants" in told


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
        return base.model_copy(update={"number": i, "score": i, "curve": tuple(curve)})

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

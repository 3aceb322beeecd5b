"""What is said of what made a difference, from records made by hand."""

import random
import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import study_samples as samples
from study_samples import figure_rows, planted, printed, with_settings

from miras_search import wandb_report
from miras_search.folder import StudyFolder
from miras_search.registry import CHOICES, kinds
from miras_search.report import reasons, text
from miras_search.report.differences import Company, differences
from miras_search.report.html import write_report
from miras_search.report.leaderboard import best_per_variant
from miras_search.tasks.base import METRICS
from miras_search.variant import Variant, settings_of


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
    by = f"{text.score(abs(better - worse))} {text.interval(found.margins['memory'])} {metric}"
    ahead = f"mlp is ahead of matrix by {by} on average"
    why = f"memory made a difference: {ahead}, all other axes equal."
    margin = found.margins["memory"]
    assert margin is not None
    assert abs(better - worse) > margin
    assert why in flat
    assert len(reasons.directions(found, how)) == 2
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
    kinds = {
        (row["axis"], row["kind"]): (float(row["difference"]), float(row["margin"]))
        for row in figure_rows(folder, "kinds")
    }
    assert kinds == {
        (axis, kind): (value, found.own_margins[axis][kind])
        for axis in ("memory", "algorithm")
        for kind, value in found.against_mean[axis].items()
    }
    for (_, kind), (value, own) in kinds.items():
        assert abs(value) > own > 0
        assert f"<title>{kind}: {value:+.4f} {text.interval(own)}</title>" in page


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
    told = next(s for s in reasons.directions(found, how) if s.startswith(" x ".join(axes)))
    (first, gain), *_, (worst, loss) = gains
    assert worst == last
    metric = how.task.metric.replace("_", " ")
    assert (
        f"{axis} {better} is ahead of {other} by {text.score(gain)} "
        f"{text.interval(company.margins[first])} {metric} on average with {first}" in told
    )
    end = f" and behind by {text.score(-loss)} {text.interval(company.margins[worst])} with {worst}"
    more = "which of these gains differ was not tested"
    if len(gaps) == 2:
        more = "that these two gains differ is what was tested"
    assert told.endswith(f"{end}; {more}.")


@pytest.mark.parametrize("window", [1, 4])
def test_a_setting_that_means_nothing_makes_no_difference(how, window):
    """How tokens weigh in a window of one."""
    weighs = random.Random(0).sample(["data", "learned"] * 6, 12)
    settings = [{"window": window, "importance": one} for one in weighs]
    records = with_settings(how, settings, lambda own: 0.3 * (own["importance"] == "learned"))
    entries = best_per_variant(records, how)
    values = settings_of([entry.variant for entry in entries])["algorithm.gd.importance"]
    assert {*values} == ({None} if window == 1 else {None, *weighs})
    found = differences(entries, how)
    assert found is not None
    effect = found.found.get("algorithm.gd.importance")
    assert (effect is not None) == (window > 1)
    if effect is not None:
        assert effect.p is not None
        assert effect.p < 0.03


def test_of_a_setting_it_is_told_which_value_is_ahead(how):
    """And of three values that the first is ahead of the last."""
    sign = 1 if how.task.direction == "maximize" else -1
    given = random.Random(0).sample([1, 2, 4] * 8, 24)
    records = []
    for record, heads in zip(planted(how), given, strict=False):
        variant = Variant.from_dict(record.variant).replace(heads=heads)
        changes = {"variant": variant.to_dict(), "digest": variant.digest}
        changes["score"] = record.score + sign * 0.2 * (heads == 2)
        records.append(record.model_copy(update=changes))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert [effect.name for effect in found.shown] == ["heads"]
    (told,) = reasons.directions(found, how)
    assert told.startswith("heads made a difference: heads=2 is ahead of heads=")
    assert told.endswith("on average, all else equal, the first and the last of its values.")
    gap, margin = (float(x) for x in re.findall(r"0\.\d{4}", told))
    assert abs(gap - 0.2) < margin < 0.1


def test_a_setting_that_is_off_has_a_value():
    base = samples.variants()[0]
    clipped = base.replace(algorithm=base.algorithm.model_copy(update={"clip": 1.0}))
    other = next(v for v in samples.variants() if v.algorithm.kind != base.algorithm.kind)
    values = settings_of([base, clipped, other])
    assert values[f"algorithm.{base.algorithm.kind}.clip"] == ["none", 1.0, None]


def test_a_score_is_the_mean_over_the_seeds_that_all_had(how):
    """By a loop: what a seed gives to all makes no difference, what it gives to one counts half."""
    records = []
    for record in planted(how, mlp=0.05):
        for seed in range(2):
            for i in range(2):
                changes = {"number": len(records), "seed": seed, "lr": 1e-3 * (1 + i)}
                changes["score"] = record.score + 0.01 * i + 5.0 * seed
                changes["score"] += 0.5 * (record.variant["bias"]["kind"] == "l2") * seed
                records.append(record.model_copy(update=changes))
    entries = best_per_variant(records, how)
    found = differences(entries, how)
    assert found is not None
    assert found.averaged
    assert found.seeds == (0, 1)
    better = max if how.task.direction == "maximize" else min
    means = defaultdict(list)
    for entry in entries:
        every = [[t.score for t in entry.trials if t.seed == seed] for seed in (0, 1)]
        if entry.variant.memory.kind != "attention":
            means[entry.variant.bias.kind].append(np.mean([better(scores) for scores in every]))
    centre = np.mean([*map(np.mean, means.values())])
    expected = {kind: pytest.approx(np.mean(own) - centre) for kind, own in means.items()}
    assert found.against_mean["bias"] == expected
    assert "with each of 2 seeds, on average." in " ".join(reasons.differences(found))
    # A seed that one variant lacks counts for none; and where one is left, the best alone counts.
    third = [r.model_copy(update={"seed": 2, "number": 1000 + r.number}) for r in records[::4]]
    most = differences(best_per_variant([*records, *third[1:]], how), how)
    assert most is not None
    assert most.seeds == (0, 1)
    assert most.against_mean["bias"] == expected
    fewer = [r for r in records if not (r.seed and r.digest == entries[3].variant.digest)]
    apart = differences(best_per_variant(fewer, how), how)
    assert apart is not None
    assert not apart.averaged


def test_what_is_level_is_not_called_behind():
    how = samples.recipe()
    found = differences(best_per_variant(planted(how), how), how)
    assert found is not None
    effect = replace(found.found["memory x algorithm"], q=0.001)
    one, other = effect.name.split(" x ")
    for gains, words in (
        (
            {"a": 0.2, "b": 1e-9},
            "is ahead of w by 0.2000 ± 0.0500 accuracy on average with a and level with b",
        ),
        ({"a": 0.0, "b": -0.1}, "is level with w with a and behind by 0.1000 ± 0.0500 with b"),
    ):
        company = Company(other, "v", "w", gains, dict.fromkeys(gains, 0.05))
        told = replace(
            found, found={effect.name: effect}, companies={effect.name: company}, axes=[one, other]
        )
        (said,) = reasons.directions(told, how)
        assert f"{other} v {words}; that these two gains differ is what was tested." in said
    # And of an axis it is said where its pair with another is shown as well.
    axis = replace(found.found["memory"], q=0.001)
    both = replace(found, found={"memory": axis, effect.name: effect})
    about = next(s for s in reasons.directions(both, how) if s.startswith("memory made"))
    assert about.endswith("axes equal; not alike in all company, as memory x algorithm tells.")
    kinds = {"mlp": 0.1, "matrix": -0.1, "vector": None}
    three = replace(
        found, found={"memory": axis}, against_mean=found.against_mean | {"memory": kinds}
    )
    (said,) = reasons.directions(three, how)
    assert said.endswith("the first and the last of those of its kinds that can be compared.")


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
    told = reasons.differences(found)[-1]
    assert told.startswith("Left out, with a kind that no other variant has: ")
    for variant in (Variant.from_dict(other.variant), paired, Variant.from_dict(lone[0].variant)):
        assert str(variant) in told
    assert "of seed 0 alone: another may show" in " ".join(reasons.differences(found))


def test_where_nothing_can_be_judged_that_is_said():
    how = samples.recipe()
    records = [r.model_copy(update={"score": 0.5}) for r in planted(how)]
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    told, left = reasons.differences(found)
    assert told == (
        "Of no axis, pair of axes or setting do the trials tell whether it made a difference."
    )
    assert left.startswith("Left out, with a kind that no other variant has: attention")


def test_of_three_kinds_it_is_not_said_which_differ():
    how = samples.recipe()
    found = differences(best_per_variant(planted(how, huber=0.2), how), how)
    assert found is not None
    (told,) = reasons.directions(found, how)
    kinds = [*found.against_mean["bias"]]
    assert kinds[0] == "huber"
    assert told.startswith(f"bias made a difference: huber is ahead of {kinds[-1]} by ")
    assert told.endswith("axes equal, the first and the last of its kinds.")
    # Where the interval has room for none, no two of them are said to differ.
    level = replace(found, margins=found.margins | {"bias": 1.0})
    (told,) = reasons.directions(level, how)
    ends = f"huber and {kinds[-1]}, the first and the last of its kinds, are "
    assert f"bias made a difference: which of its kinds differ cannot be told; {ends}" in told
    assert not reasons.directions(replace(found, least=0.0), how)


def test_more_is_asked_of_an_effect_where_the_sampler_learned():
    """What is said, and in the mean over studies how much of it may be false: statistics.md."""
    found = {}
    for sampler in ("random", "grid", "gp", "tpe"):
        how = samples.recipe(sampler=sampler)
        found[sampler] = differences(best_per_variant(planted(how, mlp=0.1), how), how)
    assert {name: made.least for name, made in found.items()} == {
        **dict.fromkeys(("random", "grid"), 0.05),
        **dict.fromkeys(("gp", "tpe"), 0.02),
    }
    # A study that goes on at random has what was learned before.
    how, learned = (samples.recipe(sampler=name) for name in ("random", "gp"))
    mixed = differences(best_per_variant(planted(learned, mlp=0.1), how), how)
    assert mixed is not None
    assert mixed.least == 0.02
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


def test_of_few_variants_nothing_is_said(how):
    records = planted(how, mlp=0.1)[:8]
    assert differences(best_per_variant(records, how), how) is None
    told = printed(records, how, 100)
    assert "difference over" not in told
    assert "Effects of axes are not judged: that takes 12 variants" in told

"""What an axis does is not told for what goes with it: fields, settings, rates, seeds, failures."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import study_samples as samples
from study_samples import figure_rows, planted, printed, with_settings

from miras_search.report import reasons
from miras_search.report.differences import Differences, differences
from miras_search.report.html import write_report
from miras_search.report.leaderboard import Entry, best_per_variant, shared_choices
from miras_search.variant import Variant


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
    assert not reasons.directions(together, how)
    crossed = starting(lambda v: (v.memory.kind == "mlp") == (v.algorithm.kind == "momentum"))
    assert crossed is not None
    assert crossed.found["memory"].p is not None
    assert crossed.found["memory x algorithm"].p is None


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


def test_what_cannot_be_told_from_others_is_said(how, tmp_path):
    """A setting that is on with one kind of two axes and not the other, and two that are one."""
    plain = [v for v in samples.variants()[:-1] if v.algorithm.kind == "gd"]
    on = [(v.bias.kind == "l2") != (v.retention.kind == "none") for v in plain]
    settings = [{"normalize": one} for one in on]
    records = with_settings(how, settings, lambda own: 0.5 * own["normalize"])
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    said = "Of some it cannot be told what they do, as they go with others: "
    setting = "algorithm.gd.normalize (with bias x retention)"
    assert setting in next(s for s in reasons.differences(found) if s.startswith(said))
    assert setting in " ".join(printed(records, how, 500).split())
    folder = samples.folder(tmp_path / "study", how, records)
    write_report(folder)
    (row,) = (r for r in figure_rows(folder, "effects") if r["effect"].endswith("normalize"))
    assert (row["p"], row["goes_with"], row["shown"]) == ("", "bias x retention", "False")
    drawn = random.Random(3).sample([False, True] * 6, 12)
    twice = [{"normalize": one, "clip": 1.0 if one else None} for one in drawn]
    records = with_settings(how, twice, lambda own: 0.5 * own["normalize"])
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert {effect.name for effect in found.together} == {
        "algorithm.gd.normalize",
        "algorithm.gd.clip",
    }


def test_an_axis_is_not_told_where_failures_go_with_its_kinds(how):
    """Half of the variants with huber have no score, and they would have had the worse ones."""

    def study(state: str) -> Differences:
        records = []
        for i, record in enumerate(planted(how, huber=0.1, mlp=0.1)):
            if record.variant["bias"]["kind"] == "huber" and (i + i // 2) % 2:
                record = record.model_copy(update={"score": None, "state": state})
            records.append(record)
        found = differences(best_per_variant(records, how), how)
        assert found is not None
        return found

    found = study("diverged")
    assert found.fallen == {"bias": {"l2": (0, 8), "lp": (0, 8), "huber": (4, 8)}}
    assert {effect.name for effect in found.shown} == {"memory"}
    assert found.found["bias"].p is found.found["memory x bias"].p is None
    said = "Of bias nothing is told: some of its kinds have no score more often than others ("
    assert said in " ".join(reasons.differences(found))
    assert "huber in 4 of 8" in " ".join(reasons.differences(found))
    # What was stopped looked bad just then, as a kind whose scores vary more does more often.
    assert study("pruned").fallen == found.fallen


@pytest.mark.parametrize(
    ("name", "values", "counts"),
    [
        ("heads", [1, 2, 4] * 8, {"1": (0, 8), "2": (0, 8), "4": (6, 8)}),
        ("chunk", [*range(2, 26)], {"up to 13.5": (0, 12), "above 13.5": (6, 12)}),
    ],
)
def test_a_setting_is_not_told_where_failures_go_with_its_values(how, name, values, counts):
    sign, rng = 1 if how.task.direction == "maximize" else -1, random.Random(0)
    given = rng.sample(values, 24)
    high = [i for i, value in enumerate(given) if value >= sorted(values)[16]]
    fell = {*rng.sample(high, 6)}

    def study(fails: bool) -> Differences:
        records = []
        for i, (record, value) in enumerate(zip(planted(how), given, strict=False)):
            variant = Variant.from_dict(record.variant).replace(**{name: value})
            changes = {"variant": variant.to_dict(), "digest": variant.digest}
            changes["score"] = record.score + sign * 0.2 * (i in high)
            if fails and i in fell:
                changes |= {"score": None, "state": "diverged"}
            records.append(record.model_copy(update=changes))
        found = differences(best_per_variant(records, how), how)
        assert found is not None
        return found

    assert [effect.name for effect in study(fails=False).shown] == [name]
    found = study(fails=True)
    assert found.fallen[name] == counts
    assert name not in {effect.name for effect in found.judged}
    assert f"Of {name} nothing is told: some of its values" in " ".join(reasons.differences(found))


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
    assert not reasons.directions(found, how)
    told = " ".join(reasons.differences(found))
    assert ("of 2 seeds" in told) == (what == "seed")


def test_an_axis_is_not_told_for_what_the_rates_are_worth_that_go_with_it(how):
    """Of four rates one is better; most mlps were tried at it, and most matrices at two that are as
    far from it on either side."""
    sign = 1 if how.task.direction == "maximize" else -1
    records = []
    for record in planted(how):
        deep = record.variant["memory"]["kind"] == "mlp"
        rates = [2e-3, 4e-3] if deep else [1e-3, 8e-3]
        if record.variant["bias"]["kind"] == "l2":
            rates = [1e-3, 4e-3]
        for lr in rates:
            changes = {"number": len(records), "lr": lr}
            changes["score"] = record.score + sign * 0.5 * (lr == 4e-3)
            records.append(record.model_copy(update=changes))
    found = differences(best_per_variant(records, how), how)
    assert found is not None
    assert not {"memory", "memory x bias"} & {effect.name for effect in found.shown}


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

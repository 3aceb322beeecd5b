"""Leaderboards, figures and the HTML page, from records made by hand."""

import base64
import csv
import hashlib
import html
import io
import json
import math
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import study_samples as samples
from rich.console import Console
from scipy.stats import studentized_range

from miras_search.finals import standing
from miras_search.folder import StudyFolder
from miras_search.recipe import Recipe
from miras_search.registry import kinds
from miras_search.report import equations, figures, svg, text
from miras_search.report.differences import differences
from miras_search.report.html import write_report
from miras_search.report.leaderboard import (
    COLUMNS,
    best_per_variant,
    rows,
    shared_choices,
    terminal,
    write_csv,
)
from miras_search.stats.ranks import correlation

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(params=["mqar", "bytes"])
def how(request):
    return samples.recipe(request.param)


def printed(records, recipe, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    terminal(records, recipe, console)
    return console.file.getvalue()


def test_rows_are_ranked_in_the_direction_of_the_task(how):
    table = rows(samples.study(how), how)
    scores = [row["score"] for row in table if row["rank"] is not None]
    assert scores == sorted(scores, reverse=how.task.direction == "maximize")
    assert [row["rank"] for row in table[: len(scores)]] == [*range(1, len(scores) + 1)]
    assert all(row["rank"] is row["score"] is None for row in table[len(scores) :])
    assert len(table) == len(scores) + 4
    assert all(tuple(row) == COLUMNS for row in table)


def test_csv_reads_back(how, tmp_path):
    records = samples.study(how)
    folder = samples.folder(tmp_path / "study", how, records)
    write_csv(folder, records[:3], how)
    write_csv(folder, records, how)
    with folder.leaderboard_file.open(newline="") as file:
        found = [*csv.DictReader(file)]
    assert len(found) == len(records)
    assert len(folder.leaderboard_file.read_text().splitlines()) == len(records) + 1
    for row, told in zip(rows(records, how), found, strict=True):
        assert told == {k: "" if v is None else str(v) for k, v in row.items()}
    assert {int(row["trial"]) for row in found} == {record.number for record in records}


def test_each_variant_appears_once_with_its_best_trial(how):
    records = samples.study(how)
    entries = best_per_variant(records, how)
    assert len(entries) == len({record.digest for record in records})
    assert sum(len(entry.trials) for entry in entries) == len(records)
    pick = max if how.task.direction == "maximize" else min
    for entry in entries:
        assert entry.best.score == pick(r.score for r in entry.complete)
        assert entry.rates == len({r.lr for r in records if r.digest == entry.best.digest})
    assert shared_choices(entries) == {"chunk": 16}
    assert "chunk" not in entries[0].label(shared_choices(entries))


def test_equal_functions_written_differently_are_one_variant():
    first = samples.variants()[0]
    same = first.replace(bias=type(samples.variants()[4].bias)(p=2.0))
    assert same != first
    records = [samples.record(0, first, 0.4), samples.record(1, same, 0.6)]
    (entry,) = best_per_variant(records, samples.recipe())
    assert entry.best.number == 1


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_is_as_wide_as_the_terminal(how, width):
    records = samples.study(how)
    out = printed(records, how, width)
    assert max(map(len, out.splitlines())) <= width
    flat = " ".join(out.split())
    assert text.levels(how.task.levels("validation")) in flat
    assert "49 of 53 trials completed. 2 diverged: the loss was nan at step 12." in flat
    assert "no error bars" in flat
    assert "\x1b" not in out
    assert "[red]" in out
    best = best_per_variant(records, how)[0].best
    first = next(line for line in out.splitlines() if line.split()[:1] == ["1"])
    assert f"{best.score:.4f}" in first
    assert "matrix" in first


def planted(how, **effects):
    """Noise of one seed a variant, and what each kind adds to it for the better."""
    rng = random.Random(1)
    sign = 1 if how.task.direction == "maximize" else -1
    records = []
    for variant in samples.variants():
        kinds = {choice.kind for choice in variant.axes().values()}
        worth = 0.02 * rng.gauss(0, 1) + sum(more for k, more in effects.items() if k in kinds)
        records.append(samples.record(len(records), variant, 0.5 + sign * worth, how=how))
    return records


def figure_rows(folder, name):
    with (folder.figures / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    folder = samples.folder(tmp_path / "study", how, records)
    page = write_report(folder).read_text()
    assert "Kinds, with all other axes equal" in page
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
    assert "with all other axes equal" not in write_report(folder).read_text()
    assert (folder.figures / "mine.svg").exists()
    assert {row["shown"] for row in figure_rows(folder, "effects")} == {"False"}
    assert not (folder.figures / "kinds.csv").exists()


def test_a_kind_of_one_variant_is_not_judged(how):
    records = planted(how, mlp=0.1)
    before = differences(best_per_variant(records, how), how)
    alone = samples.variants()[0].replace(memory=kinds("memory")["slots"](slots=8))
    odd = samples.record(len(records), alone, 0.0, how=how)
    assert differences(best_per_variant([*records, odd], how), how) == before


def test_settings_are_judged_among_the_variants_that_have_them():
    how = samples.recipe()
    base = samples.variants()[0]
    records = []
    for i in range(24):
        variant = base.replace(memory=kinds("memory")["slots"](slots=8 + i)) if i % 2 else base
        variant = variant.replace(chunk=1 + i)
        records.append(samples.record(i, variant, 0.5 + 0.01 * i * (i % 2), how=how))
    found = differences(best_per_variant(records, how), how)
    judged = {effect.name: effect for effect in found.settings}
    assert judged["memory.slots.slots"].variants == 12
    assert judged["memory.slots.slots"].share == pytest.approx(1.0)
    assert judged["chunk"].variants == 24
    assert "learning rate" not in judged  # one for all


def test_figures_of_costs_tell_each_variant_and_the_front(how):
    records = samples.study(how)
    entries = [e for e in best_per_variant(records, how) if e.best.score is not None]
    pictures = {picture.title: picture for picture in figures.by_cost(figures.Scores(entries, how))}
    # FLOPs are the same for all.
    assert {*pictures} == {
        "Score against state of one sequence",
        "Score against parameters",
        "Score against time of a trial",
    }
    svg = pictures["Score against parameters"].svg
    told = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("title")]
    assert len(told) == len(entries)
    for i, entry in enumerate(entries, start=1):
        count, score = text.short_count(entry.best.parameters), text.score(entry.best.score)
        assert f"{i}  {entry.label({'chunk': 16})}: {count}, {score}" in told
    sign = 1 if how.task.direction == "maximize" else -1
    best, front = -math.inf, 0
    for _, score in sorted((e.best.parameters, -sign * e.best.score) for e in entries):
        front += -score > best
        best = max(best, -score)
    said = f"joins the {front} that none beats" if front > 1 else "There is one that none beats"
    assert said in pictures["Score against parameters"].caption


def test_every_mark_says_what_it_is_under_the_mouse(how):
    records = samples.study(how)
    drawn = figures.draw(best_per_variant(records, how), how)
    assert {"curves", "variants", "choices", "rates", "parameters"} <= {p.name for p in drawn}
    for picture in drawn:
        marks = [e for e in ET.fromstring(picture.svg).iter() if e.tag.endswith("title")]
        assert len(marks) == len(picture.data)
        for row in picture.data:
            assert any(text.score(row["score"]) in (mark.text or "") for mark in marks)


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
    sentences = text.contrasts(outcome)
    assert len(sentences) == 3
    assert sentences[0].startswith(
        "With memory=matrix, bias=l2, retention=none: "
        "algorithm=momentum is better than algorithm=gd by 0.3000 \u00b1"
    )
    assert "bias=l2 is ahead of bias=huber by 0.0100 \u00b1" in sentences[1]
    assert sentences[1].endswith("in mean accuracy, which does not tell them apart.")
    _, shown = check(write_report(samples.folder(tmp_path / "study", how, records)).read_text())
    flat = " ".join(printed(records, how, 80).split())
    for sentence in sentences:
        assert sentence in shown
        assert sentence in flat


def test_what_means_nothing_is_no_difference():
    l2 = samples.variants()[0]
    dot = l2.replace(bias=samples.variants()[-1].bias, chunk=1)
    assert dot.single_difference(l2) == l2.single_difference(dot) == "bias"
    assert l2.single_difference(l2.replace(chunk=1)) == "chunk"
    assert l2.single_difference(l2) is None
    assert samples.variants()[1].single_difference(samples.variants()[8]) is None
    assert samples.variants()[-1].single_difference(l2) is None


def test_nothing_is_said_of_what_means_nothing_to_a_memory_that_keeps_pairs(tmp_path):
    how, variants = samples.recipe(), samples.variants()
    records = [samples.record(0, variants[-1], 0.9), samples.record(1, variants[0], 0.5)]
    records.append(samples.record(2, variants[9], 0.4))
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    top = page[: page.index("What to hold a score against")]
    assert "attention" in top
    assert "Each token moves the weights" not in top
    (picture,) = [
        p for p in figures.draw(best_per_variant(records, how), how) if p.name == "choices"
    ]
    found = {(row["axis"], row["choice"], row["score"]) for row in picture.data}
    assert ("memory", "attention", 0.9) in found
    assert {score for axis, _, score in found if axis != "memory"} == {0.5, 0.4}


def test_the_first_of_the_finals_is_in_bold(tmp_path):
    how = samples.recipe(finalists=2, seeds=3)
    one, other = samples.variants()[:2]
    records = [samples.record(0, one, 0.9, how=how), samples.record(1, other, 0.8, how=how)]
    records += samples.finals(records, how, (0.5, 0.81, 0.52, 0.8, 0.51, 0.82))
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    board = page[page.index("<h2>Leaderboard</h2>") :]
    (row,) = re.findall(r'<tr class="first">(.*?)</tr>', board[: board.index("</table>")], re.S)
    assert 'data-v="2"' in row
    assert "momentum" in row


def test_of_few_variants_nothing_is_said(how):
    records = planted(how, mlp=0.1)[:8]
    assert differences(best_per_variant(records, how), how) is None
    told = printed(records, how, 100)
    assert "difference over" not in told
    assert "Effects of axes are not judged: that takes 12 variants" in told


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_of_the_terminal_begins_with_a_bar(how, width):
    slow = [r.model_copy(update={"seconds": 1234.0}) for r in samples.study(how)]
    lines = printed(slow, how, width).splitlines()
    assert not [line for line in lines if line.lstrip().startswith("|")]
    assert max(map(len, lines)) <= width


def test_caveats_say_only_what_is_so():
    recipe, (first, second) = samples.recipe(), samples.variants()[:2]
    alone = best_per_variant([samples.record(0, first, 0.2)], recipe)
    assert any("plateau (0.25)" in told for told in text.caveats(alone, recipe))
    good = [samples.record(0, first, 0.9), samples.record(0, second, 0.8, seed=1)]
    told = " ".join(text.caveats(best_per_variant(good, recipe), recipe))
    assert "plateau" not in told
    assert "One seed" not in told
    assert "not matched" not in told
    assert "tied" not in told
    equal = [samples.record(0, first, 0.9), samples.record(1, second, 0.9)]
    assert "first 2 are tied" in " ".join(text.caveats(best_per_variant(equal, recipe), recipe))
    assert text.caveats([], recipe) == []


def test_rates_at_the_edge_are_told():
    recipe, (first, second) = samples.recipe(), samples.variants()[:2]

    def told(*scores):
        """Of two variants, each at three rates."""
        found = [
            samples.record(i, (first, second)[i // 3], score, lr=1e-3 * 2 ** (i % 3))
            for i, score in enumerate(scores)
        ]
        return [c for c in text.caveats(best_per_variant(found, recipe), recipe) if "tried" in c]

    assert told(0.1, 0.2, 0.3, 0.1, 0.3, 0.2) == []  # one of two
    (high,) = told(0.1, 0.2, 0.3, 0.1, 0.2, 0.4)
    assert high.startswith("2 of 2 variants did best at the highest learning rate tried, 0.004:")
    (low,) = told(0.3, 0.2, 0.1, 0.4, 0.2, 0.1)
    assert low.startswith("2 of 2 variants did best at the lowest learning rate tried, 0.001:")
    one_rate = [samples.record(0, first, 0.9), samples.record(1, second, 0.8)]
    assert "rate tried" not in " ".join(text.caveats(best_per_variant(one_rate, recipe), recipe))


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
        caveats = text.caveats(entries, recipe, standing(found, recipe))
        return [caveat for caveat in caveats if "another one leads" in caveat], found

    assert told((0.9, 0.8))[0] == []
    assert told((0.8, 0.8))[0] == []
    (caveat,), found = told((0.7, 0.8))
    assert caveat.startswith("On test another one leads: matrix")
    values = f"{text.score(sign * 0.8)} against {text.score(sign * 0.7)} of the first"
    assert caveat.endswith(f"{values}, by one run each.")
    # In the finals the second is first, and the test agrees.
    runs = samples.finals(found, recipe, [sign * x for x in (0.5, 0.6) * 3])
    assert told((0.7, 0.8), runs)[0] == []
    # It does not: the first of the finals is behind, by more than chance, or by less.
    for noise, worth in ((0.001, "and behind it"), (0.2, "which does not tell them apart")):
        tests = [0.8 + noise, 0.7, 0.8, 0.7 + noise, 0.8 + noise / 2, 0.7]
        again = [
            run.model_copy(update={"metrics": {name: sign * value}})
            for run, value in zip(runs, tests, strict=True)
        ]
        (caveat,), _ = told((0.7, 0.8), again)
        assert caveat.startswith("On test another one leads: matrix")
        assert caveat.endswith(f"of the first, {worth}.")


def test_how_well_early_scores_foretell_late_ones_is_told():
    base = samples.study(samples.recipe())[0]
    point = base.curve[0]

    def trial(i):
        early = (5, -i, i)
        curve = [point.model_copy(update={"step": s, "score": x}) for s, x in enumerate(early, 1)]
        return base.model_copy(update={"number": i, "score": i, "curve": tuple(curve)})

    told = text.foretelling([trial(i) for i in range(12)])
    low = correlation(range(12), range(0, -12, -1))
    assert low is not None
    # At step 1 all are equal: there is no order.
    expected = f"intervals: -1.00 [-1.00, {low.high:.2f}] at step 2."
    assert told is not None
    assert told.endswith(f"over 12 trials, with 95 % {expected}")
    # Runs of the finals are seeds of few variants, and foretell nothing of others.
    again = [trial(i).model_copy(update={"phase": "finals"}) for i in range(12)]
    assert text.foretelling([*[trial(i) for i in range(12)], *again]) == told
    assert text.foretelling(again) is None
    assert text.foretelling([trial(i) for i in range(9)]) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (7, "7"), (999, "999"), (1234, "1.23k"), (118_304, "118k"), (2_500_000, "2.50M")],
)
def test_short_counts(value, told):
    assert text.short_count(value) == told


def test_equations_become_html_and_nothing_else():
    made = equations.html("W_t = a_t W_{t-1} - <b>grad l</b> & ||r||_p^p")
    assert "W<sub>t−1</sub>" in made
    assert "‖<sub>p</sub><sup>p</sup>" in made
    assert "<b>" not in made
    for variant in samples.variants():
        for equation in variant.equations().values():
            ET.fromstring(f"<p>{equations.html(equation)}</p>")


def test_figures_are_well_formed_and_follow_the_page():
    how = samples.recipe()
    pictures = figures.draw(best_per_variant(samples.study(how), how), how)
    assert len(pictures) == 7
    ids = []
    for picture in pictures:
        root = ET.fromstring(picture.svg)
        assert root.get("aria-label") == picture.title
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        assert "currentColor" in picture.svg
        assert "DejaVu" not in picture.svg
        assert "font-face" not in picture.svg
        assert not any(math.isnan(float(v)) for v in root.get("viewBox").split())
        assert "nan" not in picture.svg.lower().replace("dominant", "")
        assert "<text" in picture.svg
    assert len(ids) == len(set(ids))


def test_each_figure_is_a_file_with_its_numbers(how, tmp_path):
    records = samples.study(how)
    folder = samples.folder(tmp_path / "study", how, records)
    page = Page(write_report(folder).read_text())
    assert {file.stem for file in folder.figures.iterdir()} <= {*figures.NAMES}
    linked = [address for address in page.addresses if address.startswith("figures/")]
    assert sorted(linked) == sorted(f"figures/{file.name}" for file in folder.figures.iterdir())
    for file in folder.figures.glob("*.svg"):
        drawing = file.read_text()
        ET.fromstring(drawing)
        # Whatever reads it, there is no page that colours and fonts could come from.
        assert not any(word in drawing for word in ("currentColor", "var(", "inherit"))
    tables = {
        file.stem: list(csv.DictReader(file.read_text().splitlines()))
        for file in folder.figures.glob("*.csv")
    }
    entries = [entry for entry in best_per_variant(records, how) if entry.best.score is not None]
    drawn = {(row["digest"], float(row["lr"]), float(row["score"])) for row in tables["variants"]}
    shown = [record for entry in entries[: figures.ROWS] for record in entry.complete]
    assert drawn == {(record.digest, record.lr, record.score) for record in shown}
    best = [entry.best for entry in entries]
    placed = [(row["digest"], int(row["parameters"])) for row in tables["parameters"]]
    assert placed == [(record.digest, record.parameters) for record in best]
    curve = [float(row["score"]) for row in tables["curves"] if row["rank"] == "2"]
    assert curve == [point.score for point in best[1].curve]


@pytest.mark.parametrize(
    ("task", "sets"),
    [
        (
            {
                "kind": "mqar",
                "pairs": 4,
                "length": 64,
                "evaluate_at": [[96, 4], [80, 4], [64, 8]],
            },
            {64: "test", 80: "80x4", 96: "96x4"},
        ),
        ({"kind": "bytes", "length": 64, "evaluate_at": [512]}, {64: "test", 512: "512"}),
        (
            {"kind": "needle", "length": 256, "depths": 2, "grid": True, "evaluate_at": [512]},
            {256: "test", 512: "512"},
        ),
    ],
)
def test_score_against_length_is_that_of_sets_that_differ_in_length_alone(task, sets):
    how = Recipe.from_dict(samples.recipe().to_dict() | {"task": task})
    measured = {f"{split}/{how.task.metric}": i / 16 for i, split in enumerate(how.task.splits[1:])}
    record = samples.record(0, samples.variants()[0], 0.5, how=how, metrics=measured)
    drawn = figures.draw(best_per_variant([record], how), how)
    (picture,) = [picture for picture in drawn if picture.name == "lengths"]
    assert [(row["tokens"], row["score"]) for row in picture.data] == [
        (length, measured[f"{split}/{how.task.metric}"]) for length, split in sets.items()
    ]


def test_a_name_in_a_figure_is_text():
    with svg.canvas(1) as figure:
        figure.add_subplot().set_title('<script>$\\frac$ & "x"')
        found = ET.fromstring(svg.drawn(figure, "a", '"<b>'))
    assert any(element.text == '<script>$\\frac$ & "x"' for element in found.iter())


class Page(HTMLParser):
    """What a browser would find: tags in balance, addresses, text outside of style."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.addresses.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def check(source):
    page = Page(source)
    assert not {"iframe", "object", "embed", "img"} & {*page.tags}
    # One script, which is the only one that the page lets run.
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;\"]*)\"", source) == [f"'sha256-{digest}'"]
    assert page.tags.count("script") == 1
    assert all(a.startswith(("#", "figures/")) or a == "data:," for a in page.addresses)
    assert "@import" not in source
    assert "url(http" not in source
    shown = " ".join(" ".join(page.text).split())
    assert "nan" not in shown.replace("the loss was nan", "").split()
    assert "None" not in shown
    return page, shown


def test_the_page_of_a_study(how, tmp_path):
    records = samples.study(how)
    folder = samples.folder(tmp_path / "study", how, records, name="<script>alert(1)</script>")
    path = write_report(folder)
    assert path == folder.report_file
    page, shown = check(path.read_text())
    assert page.tags.count("svg") == len([*folder.figures.glob("*.svg")]) == 8
    assert "<script>alert(1)</script>" in shown
    assert "<script>alert('x')</script>" in shown
    entries = best_per_variant(records, how)
    assert text.score(entries[0].best.score) in shown
    assert all(told in shown for told in text.caveats(entries, how))
    for command in ("miras-search sweep", "space.yaml", "out="):
        assert command in shown
    assert "torch 2.13.0" in shown
    assert "128x8" in shown or how.task.kind == "bytes"
    levels = how.task.levels("validation")
    assert all(f"{level:.4f}" in shown for level in text.known_levels(levels).values())
    assert "The equation of each of the first 10" in shown


def test_the_leaderboard_has_the_intervals_of_the_finals(tmp_path):
    how = samples.recipe(finalists=2, seeds=3)
    records = samples.study(how)
    records += samples.finals(records, how, (0.8, 0.4, 0.9, 0.5, 1.0, 0.6))
    outcome = standing(records, how)
    assert outcome is not None
    assert len(outcome.finalists) == 2
    _, shown = check(write_report(samples.folder(tmp_path / "study", how, records)).read_text())
    for finalist in outcome.finalists:
        # In the table and figure of the finals and in the leaderboard; the first on top as well.
        told = f"{text.score(finalist.mean)} {text.interval(finalist.margin)}"
        assert shown.count(told) == (4 if finalist is outcome.first else 3)


@pytest.mark.parametrize(("count", "failed"), [(0, 0), (1, 0), (0, 2), (2, 1)])
def test_the_page_of_few_trials(count, failed, tmp_path):
    how = samples.recipe()
    scores = [0.5] * count + [None] * failed
    found = [samples.record(i, samples.variants()[i], score) for i, score in enumerate(scores)]
    folder = samples.folder(tmp_path / "study", how, found)
    write_csv(folder, found, how)
    page, shown = check(write_report(folder).read_text())
    assert ("svg" in page.tags) == bool(count)
    assert ("No trial has finished" in shown) == (not found)
    assert ("no ranking" in shown) == (count == 0 and failed > 0)
    assert ("did not complete" in shown) == bool(failed)
    assert printed(found, how, 80)


def test_numbers_that_are_not_finite_do_not_break_a_page(tmp_path):
    how, variant = samples.recipe(), samples.variants()[0]
    sound = samples.record(0, variant, 0.0)
    broken = sound.curve[0].model_copy(update={"score": math.nan})
    odd = sound.model_copy(
        update={"curve": (broken, *sound.curve[1:]), "metrics": {}, "state_bytes": None}
    )
    pictures = figures.draw(best_per_variant([odd], how), how)
    assert all("nan" not in picture.svg for picture in pictures)
    folder = samples.folder(tmp_path / "study", how, [odd.model_copy(update={"curve": ()})])
    check(write_report(folder).read_text())


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory):
    """A report that was written, just as it is."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    how = samples.recipe()
    path = tmp_path_factory.mktemp("browser") / "study"
    return write_report(samples.folder(path, how, samples.study(how), name="long" * 60))


def browse(page, tmp_path, width, script):
    """What a script returns that is given the window of a page, and what the browser complained of.

    The page is in a frame: a browser window has a least width, and no script can be added to it.
    """
    frame = tmp_path / "frame.html"
    style = f"width:{width}px;height:900px;border:0"
    frame.write_text(
        f'<body><iframe style="{style}" src="{page.as_uri()}"></iframe><script>'
        f"const told = (window) => {{ const document = window.document; {script} }};"
        "onload = () => document.title = JSON.stringify(told(frames[0]));</script>"
    )
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --allow-file-access-from-files "
        f"--window-size=1400,1000 --user-data-dir={tmp_path / 'profile'} --dump-dom "
        "--enable-logging=stderr"
    )
    found = subprocess.run(
        [CHROMIUM, *flags.split(), frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    title = found.stdout.split("<title>")[1].split("</title>")[0]
    complaints = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title)), complaints


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen(browser_page, tmp_path, width):
    measured, complaints = browse(
        browser_page,
        tmp_path,
        width,
        """
        document.querySelectorAll("details").forEach(box => box.open = true);
        document.getElementById("every").checked = true;
        const root = document.documentElement;
        const overflow = [...document.querySelectorAll("main *")].filter(e =>
          !e.closest(".scroll, pre, .equation, svg") &&
          e.getBoundingClientRect().right > root.clientWidth + 1);
        return {width: root.scrollWidth, seen: root.clientWidth,
          overflow: overflow.map(e => e.tagName)};
        """,
    )
    assert measured["overflow"] == []
    assert measured["width"] == measured["seen"]
    assert width - 20 <= measured["seen"] <= width  # but for a scroll bar
    assert complaints == []


@pytest.mark.slow  # a time, for a machine that does nothing else
def test_a_report_of_many_trials_opens_soon(tmp_path):
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    how, base = samples.recipe(), samples.variants()
    records = [
        samples.record(i, base[i % len(base)].replace(chunk=1 + i), (i * 37 % 500) / 500, how=how)
        for i in range(500)
    ]
    page = write_report(samples.folder(tmp_path / "study", how, records))
    assert page.stat().st_size < 6e6
    milliseconds, complaints = browse(
        page,
        tmp_path,
        1280,
        """
        document.documentElement.getBoundingClientRect();  // laid out
        return window.performance.now();
        """,
    )
    assert complaints == []
    assert milliseconds < 2000


def test_tables_sort_by_a_click(browser_page, tmp_path):
    """Numbers by their size and not as they are written, names by the alphabet, gaps last."""
    (orders, seen), complaints = browse(
        browser_page,
        tmp_path,
        1280,
        """
        const found = {};
        for (const table of document.querySelectorAll("table.sorts")) {
          [...table.tHead.rows[0].cells].forEach((head, i) => {
            for (const turn of [1, 2]) {
              head.querySelector("button").click();
              const cells = [...table.tBodies[0].rows].map(row => row.cells[i]);
              const number = cell => "v" in cell.dataset ? +cell.dataset.v : null;
              const value = head.className == "n" ? number : cell => cell.textContent;
              found[[table.className, head.textContent, head.getAttribute("aria-sort")]] =
                cells.map(value);
            }
          });
        }
        const rows = [...document.querySelectorAll(".first-20 tbody tr")];
        const seen = [rows.filter(row => row.offsetHeight).length];
        document.getElementById("every").click();
        seen.push(rows.filter(row => row.offsetHeight).length, rows.length);
        return [found, seen];
        """,
    )
    assert complaints == []
    assert len(orders) == 2 * (12 + 12)
    for name, values in orders.items():
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=name.endswith(",descending")), name
        assert None not in values[: len(known)]
    assert any(None in values for values in orders.values())
    assert seen == [20, 25, 25]

"""The figures and equations of a report, from records made by hand."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
import study_samples as samples

from miras_search.finals import standing
from miras_search.recipe import Recipe
from miras_search.record import Point
from miras_search.report import equations, figures, marks, svg, text
from miras_search.report.html import write_report
from miras_search.report.leaderboard import (
    best_per_variant,
)


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
    said = f"no other variant beats {f'these {front}' if front > 1 else 'this one'} in one"
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


def test_lines_of_many_points_have_few_markers_and_those_of_both_ends():
    how, variant = samples.recipe(), samples.variants()[0]
    curve = [
        Point(step=step, seconds=1.0, train_loss=1.0, score=step / 1000) for step in range(1, 101)
    ]
    record = samples.record(0, variant, 0.1, how=how, curve=tuple(curve))
    drawn = figures.draw(best_per_variant([record], how), how)
    (picture,) = [picture for picture in drawn if picture.name == "curves"]
    told = [e.text for e in ET.fromstring(picture.svg).iter() if e.tag.endswith("title")]
    steps = [int((words or "").split("step ")[1]) for words in told]
    assert len(picture.data) == 100
    assert len(steps) == 16
    assert (steps[0], steps[-1]) == (1, 100)
    assert {b - a for a, b in pairwise(steps)} <= {6, 7}


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
        # Alone it has the page behind it, wherever it is put.
        assert re.search(rf'patch_1">\s*<path [^>]*fill: {svg.PAGE}', picture.drawing)
        assert "DejaVu" not in picture.svg
        assert "font-face" not in picture.svg
        assert not any(math.isnan(float(v)) for v in root.get("viewBox").split())
        assert "nan" not in picture.svg.lower().replace("dominant", "")
        assert "<text" in picture.svg
    assert len(ids) == len(set(ids))


def test_the_first_of_the_finals_is_in_every_figure_of_the_best(tmp_path):
    """It may be far down the ranking of the search."""
    how = samples.recipe(finalists=12, seeds=3)
    searched = [
        samples.record(2 * i + j, v, 0.9 - i / 50 - j / 500, how=how, lr=lr)
        for i, v in enumerate(samples.variants())
        for j, lr in enumerate((1e-3, 3e-3))
    ]
    scores = [0.5] * 9 + [0.8] + [0.5] * 2
    records = searched + samples.finals(searched, how, scores * 3)
    entries = best_per_variant(records, how)
    outcome = standing(records, how)
    drawn = {p.name: p for p in figures.draw(entries, how, outcome)}
    for name in ("curves", "rates"):
        assert {row["rank"] for row in drawn[name].data} == {1, 2, 3, 4, 5, 10}
        assert outcome.first.variant.digest in {row["digest"] for row in drawn[name].data}
        assert "10  " in drawn[name].drawing
    assert {row["rank"] for row in drawn["variants"].data} == {*range(1, 21)}
    folder = samples.folder(tmp_path / "study", how, records)
    write_report(folder)
    assert {row["rank"] for row in samples.figure_rows(folder, "curves")} == {*"12345", "10"}
    without = {p.name: p for p in figures.draw(entries, how)}
    assert {row["rank"] for row in without["curves"].data} == {*range(1, 7)}


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


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([16, 64, 256, 1024], [16, 64, 256, 1024]),
        ([1000, 1003, 1011], [1000, 1003, 1011]),
        ([1000, 1001, 1011], [1000, 1010]),
        ([*range(1003, 2017, 13)], None),
        ([*range(10, 100_000, 977)], [10, 100, 1000, 10_000, 100_000]),
        ([512], [512]),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_can_be_told_apart(values, ticks):
    with svg.canvas(2) as figure:
        axes = figure.add_subplot()
        axes.scatter(values, values)
        marks.log_axis(axes, values, "{:g}".format)
        figure.draw_without_rendering()
        low, high = axes.get_xlim()
        shown = [t for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = sorted(t.label1.get_window_extent().extents.tolist() for t in shown)
    at = [t.get_loc() for t in shown]
    assert all(a[2] < b[0] for a, b in pairwise(boxes)), "names that overlap"
    assert len(at) >= min(2, len(values))
    # What is no value is a number that can be read.
    assert all(x in values or float(f"{x:.3g}") == x for x in at)
    if ticks:
        assert at == pytest.approx(ticks)


def test_ticks_of_one_name_are_one():
    values = [125_000, 125_400, 125_800, 126_200, 126_600]
    with svg.canvas(2) as figure:
        axes = figure.add_subplot()
        marks.log_axis(axes, values, lambda x: f"{x / 1000:.0f}k")
        assert [*axes.get_xticks()] == [125_000, 125_800, 126_600]

"""The leaderboard as rows, CSV and terminal, from records made by hand."""

import csv
from statistics import mean

import pytest
import study_samples as samples
from study_samples import printed

from miras_search.finals import standing
from miras_search.report import reasons, text
from miras_search.report.leaderboard import (
    COLUMNS,
    best_per_variant,
    rows,
    shared_choices,
    variants_table,
    write_csv,
)


def test_rows_are_ranked_in_the_direction_of_the_task(how):
    table = rows(samples.study(how), how)
    scores = [row["score"] for row in table if row["rank"] is not None]
    assert scores == sorted(scores, reverse=how.task.direction == "maximize")
    assert [row["rank"] for row in table[: len(scores)]] == [*range(1, len(scores) + 1)]
    assert all(row["rank"] is row["score"] is None for row in table[len(scores) :])
    assert len(table) == len(scores) + 4
    assert all(tuple(row) == COLUMNS for row in table)


def test_rows_of_the_finals_say_how_their_finalist_stands():
    """The leader of the search is second in the finals and tied with the first; one is behind."""
    how = samples.recipe(finalists=3, seeds=3)
    searched = [
        samples.record(i, v, 0.9 - i / 10, how=how) for i, v in enumerate(samples.variants()[:4])
    ]
    runs = [(0.8, 0.86, 0.83), (0.84, 0.9, 0.81), (0.1, 0.12, 0.17)]
    records = searched + samples.finals(searched, how, [run[s] for s in range(3) for run in runs])
    outcome = standing(records, how)
    assert outcome is not None
    stands = {finalist.variant.digest: finalist for finalist in outcome.finalists}
    told = ("final_mean", "final_margin", "tied", "first_better")
    told += ("first_better_low", "first_better_high")
    table = rows(records, how)
    assert {row[name] for row in table[:4] for name in told} == {None}
    for variant, scores, tied in zip(samples.variants(), runs, (True, True, False), strict=False):
        better = mean((a > b) + (a == b) / 2 for a in runs[1] for b in scores)
        finalist = stands[variant.digest]
        known = (mean(scores), finalist.margin, tied, better, *finalist.beaten[1:])
        found = [row for row in table[4:] if row["digest"] == variant.digest]
        assert [row["score"] for row in found] == [*scores]
        for row in found:
            assert [row[name] for name in told] == pytest.approx(known)
            assert row["tied"] is tied


def test_finals_that_are_all_alike_show_no_choice_to_be_better():
    how = samples.recipe(finalists=2, seeds=3)
    searched = [samples.record(i, samples.variants()[i], 0.9 - i / 10, how=how) for i in (0, 1)]
    records = searched + samples.finals(searched, how, [0.8, 0.6] * 3)
    outcome = standing(records, how)
    assert outcome is not None
    (contrast,) = outcome.contrasts
    assert contrast.margin is None
    assert contrast.gap == pytest.approx(0.2)
    assert not contrast.shown
    told, _ = reasons.contrasts(outcome)
    assert "is better than" not in told
    assert "is ahead of" in told


def test_who_stands_for_the_study_is_bold_on_a_terminal():
    """The first of the finals, though another leads the search."""
    how = samples.recipe(finalists=2, seeds=3)
    searched = [
        samples.record(i, v, 0.9 - i / 10, how=how) for i, v in enumerate(samples.variants())
    ]
    records = searched + samples.finals(searched, how, [0.4, 0.8] * 3)
    entries = best_per_variant(records, how)[:3]

    def styles(outcome):
        return [str(row.style) for row in variants_table(entries, (), 80, outcome).rows]

    assert styles(standing(records, how)) == ["", "bold", ""]
    assert styles(None) == ["bold", "", ""]


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
    assert "49 of 53 trials completed. 2 diverged: the loss was nan at step 12 to 100." in flat
    assert "no error bars" in flat
    assert "\x1b" not in out
    assert "[red]" in out
    best = best_per_variant(records, how)[0].best
    first = next(line for line in out.splitlines() if line.split()[:1] == ["1"])
    assert f"{best.score:.4f}" in first
    assert "matrix" in first


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_of_the_terminal_begins_with_a_bar(how, width):
    slow = [r.model_copy(update={"seconds": 1234.0}) for r in samples.study(how)]
    lines = printed(slow, how, width).splitlines()
    assert not [line for line in lines if line.lstrip().startswith("|")]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (7, "7"), (999, "999"), (1234, "1.23k"), (118_304, "118k"), (2_500_000, "2.50M")],
)
def test_short_counts(value, told):
    assert text.short_count(value) == told

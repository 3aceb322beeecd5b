"""The HTML page of a study, from records made by hand, also in a browser."""

import csv
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import study_samples as samples
from report_page import CHROMIUM, FLAGS, Browser, Page, check
from study_samples import printed

from miras_search.finals import standing
from miras_search.folder import StudyFolder
from miras_search.report import figures, sentences, text
from miras_search.report.html import write_report
from miras_search.report.leaderboard import (
    best_per_variant,
    write_csv,
)


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
    assert all(told in shown for told in sentences.caveats(entries, how))
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
    assert "the first 2, on 3 new seeds each" in shown
    for finalist in outcome.finalists:
        # In the table and figure of the finals and in the leaderboard; the first on top as well.
        told = f"{text.score(finalist.mean)} {text.interval(finalist.margin)}"
        assert shown.count(told) == (5 if finalist is outcome.first else 3)
    # Of three runs with 0.79, 0.89 and 0.99.
    assert "their mean test accuracy 0.8900" in " ".join(shown.split())


def test_a_study_may_be_named_by_where_one_stands(how, tmp_path, monkeypatch):
    folder = samples.folder(tmp_path / "study", how, samples.study(how))
    monkeypatch.chdir(folder.path)
    page = write_report(StudyFolder(Path())).read_text()
    assert f"out={tmp_path / 'study-again'}" in page


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
    how = samples.recipe(finalists=2, seeds=3)
    records = samples.study(how)
    records += samples.finals(records, how, (0.8, 0.4, 0.9, 0.5, 1.0, 0.6))
    path = tmp_path_factory.mktemp("browser") / "study"
    return write_report(samples.folder(path, how, records, name="long" * 60))


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
        "--allow-file-access-from-files --window-size=1400,1000 --dump-dom "
        f"--user-data-dir={tmp_path / 'profile'} --enable-logging=stderr"
    )
    words = [*FLAGS, *flags.split(), frame.as_uri()]
    found = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120)
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
        const cut = [...document.querySelectorAll(".scroll")].filter(e =>
          e.scrollWidth > e.clientWidth);
        return {width: root.scrollWidth, seen: root.clientWidth,
          overflow: overflow.map(e => e.tagName), cut: cut.map(e => e.ariaLabel)};
        """,
    )
    assert measured["overflow"] == []
    assert width < 1280 or measured["cut"] == []
    assert measured["width"] == measured["seen"]
    assert width - 20 <= measured["seen"] <= width  # but for a scroll bar
    assert complaints == []


MARKS = """
(() => {
  const marks = [...document.querySelectorAll("figure svg title")];
  window.at = (i) => {
    marks[i].parentNode.scrollIntoView({block: "center"});
    const box = marks[i].parentNode.getBoundingClientRect();
    const place = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const over = document.elementFromPoint(...place);
    const other = marks.some((mark, j) => j != i && mark.parentNode.contains(over));
    // A disc for a share of nothing has no size: what is nearest speaks.
    const own = marks[i].parentNode.contains(over) || !box.width;
    return {place, other, own};
  };
  // Words and the like, which have no title and would lie over what has.
  window.inTheWay = () => [...document.querySelectorAll("figure svg :is(text, use, path)")]
    .filter((shape) => !marks.some((mark) => mark.parentNode.contains(shape)))
    .filter((shape) => {
      shape.scrollIntoView({block: "center"});
      const box = shape.getBoundingClientRect();
      const place = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
      return document.elementFromPoint(...place) == shape;
    }).length;
  window.said = () => {
    const tip = document.getElementById("tip");
    if (!tip.checkVisibility()) return null;
    const box = tip.getBoundingClientRect();
    const root = document.documentElement;
    const inside = box.left >= 0 && box.right <= root.clientWidth
      && box.top >= 0 && box.bottom <= root.clientHeight && root.scrollWidth == root.clientWidth;
    // What the browser itself would show.
    const over = document.querySelector("figure svg :hover > title");
    return {text: tip.textContent, inside, native: over ? over.textContent : ""};
  };
  return marks.map((mark) => mark.textContent);
})()
"""
"""The titles of all marks, and what to ask of one and of the tooltip."""


@pytest.mark.parametrize(("width", "touch"), [(1280, False), (390, True), (390, False)])
def test_every_mark_that_is_reached_says_what_it_is(browser_page, tmp_path, width, touch):
    with Browser(browser_page, tmp_path / "profile", width, touch=touch) as browser:
        reach = browser.tap if touch else browser.move
        titles = browser.value(MARKS)
        free = 0
        for i, title in enumerate(titles):
            found = browser.value(f"at({i})")
            if not found["other"]:
                free += 1
                assert found["own"], f"something lies over {title}"
                reach(*found["place"])
                told = {"text": title, "inside": True, "native": ""}
                assert browser.value("said()") == told, found
        assert browser.value("inTheWay()") == 0
        assert free > 0.7 * len(titles) > 70
        browser.value("scrollTo(0, 0)")
        reach(20, 100)  # the heading
        assert browser.value("said()") is None
        assert browser.value(MARKS) == titles
        assert browser.complaints == []


def test_arrow_keys_go_from_mark_to_mark_of_a_figure(browser_page, tmp_path):
    with Browser(browser_page, tmp_path / "profile", 1280) as browser:
        titles = browser.value(MARKS)
        browser.value("""window.drawings = [...document.querySelectorAll("figure svg")]
          .filter((drawing) => drawing.querySelector("title"))""")
        heard = []
        for i in range(browser.value("drawings.length")):
            browser.value(f"drawings[{i}].focus()")
            assert browser.value("said()") is None
            for _ in range(browser.value(f'drawings[{i}].querySelectorAll("title").length')):
                browser.press("ArrowRight")
                said = browser.value("said()")
                assert said["inside"], said
                heard.append(said["text"])
            last = heard[-1]
            browser.press("ArrowRight")  # the first again
            browser.press("ArrowLeft")
            assert browser.value("said()")["text"] == last
            browser.press("Escape")
            assert browser.value("said()") is None
            browser.press("ArrowLeft")
            assert browser.value("said()")["text"] == last
        assert heard == titles
        browser.value("document.activeElement.blur()")
        assert browser.value("said()") is None
        assert browser.value(MARKS) == titles
        assert browser.complaints == []


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
    assert len(orders) == 2 * (13 + 12)
    for name, values in orders.items():
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=name.endswith(",descending")), name
        assert None not in values[: len(known)]
    assert any(None in values for values in orders.values())
    assert seen == [20, 25, 25]

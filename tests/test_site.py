"""The documentation site: it builds without a warning and needs no network to be read."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import miras_search
from miras_search import registry

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = Path("/usr/bin/chromium")


class Read(HTMLParser):
    """The text of a page, and what a browser would load to show it."""

    def __init__(self, page):
        super().__init__()
        self.text, self.loaded, self.ids = "", [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag in ("script", "img", "iframe"):
            self.loaded.append(given.get("src"))
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loaded.append(given.get("href"))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the site is built into, every page of it read."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder, {
        str(file.relative_to(folder)): Read(file.read_text()) for file in folder.rglob("*.html")
    }


def plain(text):
    """The text without marks of code and tables, and with single spaces."""
    return " ".join(re.sub("[`|]", "", text).split())


def test_every_kind_is_on_the_page_of_its_axis(site):
    _, pages = site
    for group in (*registry.CHOICES, "task"):
        page = pages[f"choices/{group}.html"]
        shown = plain(page.text)
        for kind, cls in registry.kinds(group).items():
            assert kind in page.ids
            lines = [*cls.equation.split(";  "), cls.source, *(cls.__doc__ or "").splitlines()]
            told = [plain(re.sub(r"^ *- |-{3}", "", line)) for line in lines]
            assert not [line for line in told if line not in shown], kind
            assert {*cls.model_fields} <= {*shown.split()}


def test_every_public_name_is_told(site):
    _, pages = site
    assert {f"miras_search.{name}" for name in miras_search.__all__} <= pages[
        "python/index.html"
    ].ids


def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    assert len(pages) > 30
    for name, page in pages.items():
        for file in filter(None, page.loaded):
            assert not re.match(r"\w+:|//", file), (name, file)
            base = folder if file.startswith("/") else (folder / name).parent
            assert base.joinpath(file.lstrip("/").partition("?")[0]).exists(), (name, file)


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_screen(site, tmp_path, width):
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    folder, _ = site
    # A browser window has a least width; a frame has none.
    frame = tmp_path / "frame.html"
    style = f"width:{width}px;height:900px;border:0"
    pages = ("index.html", "tutorial.html", "choices/algorithm.html", "python/index.html")
    frames = [
        f'<iframe style="{style}" src="{(folder / page).as_uri()}"></iframe>' for page in pages
    ]
    measure = (
        "document.title = JSON.stringify(Array.from(frames, one => one.document.documentElement)"
        ".map(root => [root.scrollWidth, root.clientWidth]))"
    )
    frame.write_text(f"<body>{''.join(frames)}<script>onload = () => {{{measure}}}</script>")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --allow-file-access-from-files "
        f"--window-size=1400,1000 --user-data-dir={tmp_path / 'profile'} --dump-dom"
    )
    found = subprocess.run(
        [CHROMIUM, *flags.split(), frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    measured = json.loads(found.stdout.split("<title>")[1].split("</title>")[0])
    assert len(measured) == len(pages)
    for wide, seen in measured:
        assert wide == seen
        assert width - 20 <= seen <= width  # but for a scroll bar

"""Spaces, recipes and tables that go by a bare name."""

from pathlib import Path

import pytest

from miras_search import shipped
from miras_search.errors import UserError
from miras_search.recipe import Recipe, load_pair
from miras_search.space import Space

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("find", "name", "file"),
    [
        (shipped.space, "core", "spaces/core.yaml"),
        (shipped.space, "yaad", "spaces/published/yaad.yaml"),
        (shipped.recipe, "bytes", "recipes/bytes.yaml"),
        (shipped.recipe, "340m", "recipes/sizes/340m.yaml"),
        (shipped.recipe, "mad", "recipes/mad.yaml"),  # not reproduce/mad.yaml
        (shipped.table, "recall", "miras_search/benchmark/recall.parquet"),
    ],
)
def test_a_bare_name_is_a_shipped_file(find, name, file):
    assert find(name) == ROOT / file


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes").write_text(
        "task: {kind: mqar, length: 64, pairs: 4}\nsteps: 7\nlr: 1e-3\n"
    )
    assert Recipe.load("bytes").steps == 7
    assert Recipe.load("bytes").name == "bytes"


def test_a_folder_of_that_name_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("core", "recall", "runs"):
        Path(name).mkdir()
    assert shipped.space("core") == ROOT / "spaces/core.yaml"
    assert shipped.recipe("recall") == ROOT / "recipes/recall.yaml"
    assert shipped.table("recall") == ROOT / "miras_search/benchmark/recall.parquet"
    with pytest.raises(UserError, match="runs: neither a file nor a shipped space"):
        shipped.space("runs")


def test_a_name_that_is_not_shipped_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"byte: neither a file nor a shipped recipe: .*bytes"):
        Recipe.load("byte")
    with pytest.raises(UserError, match="neither a file nor a shipped space") as error:
        load_pair("coer", "byte")
    assert len(error.value.problems) == 2


def test_a_pair_goes_by_names_as_by_files():
    named, filed = (
        load_pair("yaad", "bytes"),
        load_pair(ROOT / "spaces" / "published" / "yaad.yaml", ROOT / "recipes" / "bytes.yaml"),
    )
    assert named[1] == filed[1]
    assert [*named[0].enumerate()] == [*filed[0].enumerate()]
    assert isinstance(named[0], Space)

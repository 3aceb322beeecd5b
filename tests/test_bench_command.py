"""The command of the benchmarks: what would fail only after minutes is told at once."""

import sys

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.__main__ import main
from benchmarks.timing import row


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["nothing"], "unknown groups"),
        (["naive", "--rounds", "0"], "--rounds 0: expected at least 1"),
        (["naive", "--out", "bench.svg"], "--out bench.svg: expected a file"),
        (["naive", "--out", "nowhere/bench.json"], "in a folder that there is"),
        (["naive", "--device", "nowhere"], "--device nowhere:"),
        (["naive", "--device", "meta"], "--device meta:"),
    ],
)
def test_options_are_looked_at_first(options, told, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_what_was_not_compiled_is_no_figure_of_compiled_layers(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "one", "--out", str(tmp_path / "bench.json")])
    monkeypatch.setattr(benchmarks, "GROUPS", {"one": lambda rounds: [row("a", "b", [1.0])]})
    main()
    monkeypatch.setattr(benchmarks, "failures", lambda: ["no C++ compiler"])
    with pytest.raises(SystemExit, match=r"nothing was compiled.*no C\+\+ compiler"):
        main()

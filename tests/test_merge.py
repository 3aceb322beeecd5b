"""Several studies as one: nothing is lost, nothing is doubled, and what comes out is a study."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from study_files import SPACE, run, write

import miras_search.merge as merging
from miras_search.benchmark.table import Table
from miras_search.cli import main
from miras_search.compare import compare
from miras_search.errors import UserError
from miras_search.folder import CONFIG, WEIGHTS, StudyFolder
from miras_search.merge import merge
from miras_search.recipe import load_pair
from miras_search.record import Point, TrialRecord
from miras_search.samplers.base import NOTE, SPEC
from miras_search.study import Study, journal
from miras_search.trial import TrialSpec, outcome
from miras_search.watch import Watched


def made(
    path: Path, *overrides: str, space: str = SPACE, cut: int = 0, shift: float = 0.0
) -> StudyFolder:
    """A study whose trials were answered without training, each with weights of its own.

    A score depends on the trial and not on the study; of the last `cut` there is none.
    """
    how = [f"out={path}", "sampler=random", *overrides]
    with Study.begin(*load_pair(*write(path.parent / "files", space), how)) as study:
        while (spec := study.ask()) is not None:
            if spec.number >= study.total - cut:
                continue
            found = record(spec, shift)
            folder = study.folder.trial(spec.number)
            folder.mkdir(parents=True)
            (folder / WEIGHTS).write_text(f"{found.digest} {spec.lr} {spec.seed}")
            (folder / CONFIG).write_text(f"of {spec.seed}")
            found.write(study.folder.record_file(spec.number))
            study.hear(spec.number, found.curve[0])
            study.tell(found)
    return StudyFolder(path)


def record(spec: TrialSpec, shift: float) -> TrialRecord:
    new = outcome(spec, "complete", None)
    own = int(new.digest, 16) % 997 / 1000 + spec.lr + (spec.seed % 7) / 100 + shift
    curve = (Point(step=2, seconds=1.0, train_loss=1.0, score=own / 2),)
    if int(new.digest, 16) % 5 == 0 and spec.seed == 1:
        return new.model_copy(update={"state": "diverged", "reason": "made up", "curve": curve})
    return new.model_copy(update={"score": own, "curve": curve, "seconds": 1.0})


def contents(*folders: StudyFolder) -> dict[Path, bytes | Path]:
    files = (file for folder in folders for file in folder.path.rglob("*"))
    return {f: f.readlink() if f.is_symlink() else f.read_bytes() for f in files if not f.is_dir()}


def plain(records: list[TrialRecord]) -> list[dict]:
    return [record.model_dump(exclude={"number"}) for record in records]


def told(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    """Every trial of the journal that was given out."""
    storage = journal(folder.journal_file)
    names = optuna.get_all_study_names(storage)
    trials = [t for n in names for t in optuna.load_study(study_name=n, storage=storage).trials]
    return [trial for trial in trials if SPEC in trial.user_attrs]


def test_a_merged_study_has_every_trial_once_and_its_sources_are_as_they_were(
    tmp_path: Path,
) -> None:
    a = made(tmp_path / "a", "trials=5", "finalists=2")
    b = made(tmp_path / "b", "trials=8", "seed=1", "workers=2", "wandb=offline", cut=1)
    before = contents(a, b)
    merged = merge([a.path, b.path], tmp_path / "m")
    assert contents(a, b) == before
    assert merged.trials == 5 + 6 + 7
    (note,) = merged.notes
    assert note == f"{b.path}: 1 of its trials had not finished and are left out"
    records = merged.folder.records()
    assert [r.number for r in records] == [*range(18)]
    assert plain(records) == plain([*a.records(), *b.records()])
    assert all((merged.folder.trial(n) / CONFIG).is_file() for n in range(18))
    assert "18" not in {p.name for p in (merged.folder.path / "trials").iterdir()}
    assert merged.folder.identity["id"] not in {a.identity["id"], b.identity["id"]}
    # What Optuna knows is what it knew, under the new numbers.
    olds = {TrialSpec.model_validate_json(t.user_attrs[SPEC]).folder: t for t in told(a) + told(b)}
    sources = [f.trial(r.number) for f in (a, b) for r in f.records()]
    news = told(merged.folder)
    assert len(news) == 18
    for new in news:
        spec = TrialSpec.model_validate_json(new.user_attrs[SPEC])
        assert spec.study == merged.folder.identity["id"]
        old = olds[str(sources[spec.number])]
        for name in ("state", "value", "params", "distributions", "intermediate_values"):
            assert getattr(new, name) == getattr(old, name)
        assert new.system_attrs[NOTE] == old.system_attrs[NOTE] if spec.phase == "search" else True


def test_the_weights_that_are_kept_are_those_of_the_same_trials(tmp_path: Path) -> None:
    a = made(tmp_path / "a", "trials=5", "finalists=2")
    b = made(tmp_path / "b", "trials=8", "seed=1", "finalists=2")
    merged = merge([a.path, b.path], tmp_path / "m").folder
    kept = 0
    for found in merged.records():
        file = merged.trial(found.number) / WEIGHTS
        if file.is_file():
            assert file.read_text() == f"{found.digest} {found.lr} {found.seed}"
            kept += 1
    assert 3 <= kept <= 5  # the best of the search, and a run of each finalist
    searched = [r for r in merged.records() if r.phase == "search" and r.score is not None]
    best = max(searched, key=lambda r: r.score)
    assert (merged.trial(best.number) / WEIGHTS).is_file()
    rows = list(csv.DictReader(merged.leaderboard_file.read_text().splitlines()))
    assert int(rows[0]["trial"]) == best.number
    assert len(rows) == len(merged.records())
    assert merged.best_checkpoint.resolve().parent == (merged.path / "trials").resolve()
    assert (merged.best_checkpoint / WEIGHTS).is_file()


@pytest.mark.parametrize("sampler", ["gp", "tpe", "grid"])
def test_a_merged_study_goes_on_with_what_nobody_tried(tmp_path: Path, sampler: str) -> None:
    """Each source has tried four points of eight, some of them with both seeds."""
    a, b = made(tmp_path / "a", "trials=4"), made(tmp_path / "b", "trials=4", "seed=2")
    tried = {(r.digest, r.lr) for r in [*a.records(), *b.records()]}
    assert 4 < len(tried) < 8
    folder = merge([b.path, a.path], tmp_path / "m").folder
    space, recipe = load_pair(folder.space_file, folder.recipe_file, [f"out={folder.path}"])
    assert (recipe.trials, recipe.seed) == (8, 2)
    with Study.begin(space, recipe) as study:
        assert study.ask() is None
    everything = recipe.model_copy(update={"trials": None, "sampler": sampler})
    asked = []
    watched = Watched(folder)
    watched.look()
    assert watched.complete
    with Study.begin(space, everything) as study:
        assert study.total == 8 + (8 - len(tried))
        watched.look()
        assert watched.total == study.total
        assert not watched.complete
        while (spec := study.ask()) is not None:
            asked.append(spec)
            found = record(spec, 0.0)
            found.write(study.folder.record_file(spec.number))
            study.tell(found)
    watched.look()
    assert watched.complete
    assert [spec.number for spec in asked] == [*range(8, study.total)]
    assert {spec.seed for spec in asked} == {2}
    new = {(record(spec, 0.0).digest, spec.lr) for spec in asked}
    assert len(new) == len(asked) == 8 - len(tried)
    assert not new & tried


def test_what_was_run_twice_is_kept_once(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", "trials=6"), made(tmp_path / "b", "trials=8")
    merged = merge([a.path, b.path], tmp_path / "m")
    assert merged.trials == 8
    assert merged.notes == ("6 trials were run twice and came out the same: kept once",)
    assert merged.folder.recipe.trials == 8
    # Another result for the same trial: the first that completed stays, and each is told.
    other = made(tmp_path / "c", "trials=6", shift=0.25)
    lost = a.records()[2].model_copy(update={"state": "failed", "reason": "x", "score": None})
    lost.write(a.record_file(2))
    merged = merge([a.path, other.path], tmp_path / "n")
    assert len(merged.notes) == 6
    for i, (note, found) in enumerate(zip(merged.notes, merged.folder.records(), strict=True)):
        kept = other if i == 2 else a
        assert note.startswith(f"trial {i} of {other.path} is trial {i} of {a.path} again and ")
        assert note.endswith(f"kept is trial {i} of {kept.path}")
        assert plain([found]) == plain([kept.records()[i]])


def test_studies_that_were_asked_something_else_are_refused(tmp_path: Path) -> None:
    a = made(tmp_path / "a", "trials=2")
    for change, expected in {
        "chunk=8": r"its space has chunk: 8: expected 4, as in .*a$",
        "steps=7": r"its recipe has steps: 7: expected 6, as in .*a$",
        "size.width=16": r"its recipe has size\.width: 16: expected 8",
        "lr=[1e-3, 2e-2]": r"its recipe has lr\[1\]: 0\.02: expected 0\.01",
        "memory=[matrix]": r"its space has memory: matrix: expected \[matrix, \{kind: mlp",
    }.items():
        other = made(tmp_path / change.replace("/", ""), "trials=2", change)
        with pytest.raises(UserError, match=expected):
            merge([a.path, other.path], tmp_path / "m")
    lines = SPACE.splitlines()
    other = made(tmp_path / "order", "trials=2", space="\n".join(lines[::-1]))
    if other.space.digest != a.space.digest:
        with pytest.raises(UserError, match=r"its space has "):
            merge([a.path, other.path], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_merged_is_told(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", "trials=2"), made(tmp_path / "b", "trials=2", "seed=1")
    for paths in ([a.path], [a.path, a.path], [a.path, a.path / ".." / "a"]):
        with pytest.raises(UserError, match="two or more different folders"):
            merge(paths, tmp_path / "m")
    with pytest.raises(UserError, match="not a study folder"):
        merge([a.path, tmp_path], tmp_path / "m")
    with pytest.raises(UserError, match="is taken: expected a new or an empty folder"):
        merge([a.path, b.path], a.path)
    running = Study.begin(b.space, b.recipe.model_copy(update={"out": str(b.path)}))
    with running, pytest.raises(UserError, match=r"b: a sweep is running in it"):
        merge([a.path, b.path], tmp_path / "m")
    journal_file = b.journal_file.read_bytes()
    b.journal_file.write_bytes(b"")
    with pytest.raises(UserError, match="does not know of trial 0: expected this study's journal"):
        merge([a.path, b.path], tmp_path / "m")
    for line in (b"xx\n", b"\xff\n", b"{}\n", b"1\n"):
        b.journal_file.write_bytes(journal_file + 2 * line)
        with pytest.raises(UserError, match="expected an Optuna journal") as caught:
            merge([a.path, b.path], tmp_path / "m")
        assert str(caught.value).startswith(f"{b.journal_file}: ")
        with pytest.raises(UserError, match="expected an Optuna journal"), Study(b, b.recipe):
            pass
    b.journal_file.write_bytes(journal_file[:-5])  # cut off in writing: as resume, so merge
    (tmp_path / "m").mkdir()
    assert merge([a.path, b.path], tmp_path / "m").trials == 4
    nothing = [made(tmp_path / name, "trials=1", cut=1) for name in ("c", "d")]
    with pytest.raises(UserError, match="no trial has finished"):
        merge([folder.path for folder in nothing], tmp_path / "n")


class Killed(BaseException):
    """Nobody cleans up behind it, as behind kill -9."""


@pytest.mark.parametrize("place", ["record", "journal", "study", "rename"])
def test_a_merge_that_is_cut_off_leaves_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    a, b = made(tmp_path / "a", "trials=3"), made(tmp_path / "b", "trials=3", "seed=1")

    def die(*_: object, **__: object) -> None:
        raise Killed

    owner, name = {
        "record": (TrialRecord, "write"),
        "journal": (optuna.Study, "add_trial"),
        "study": (merging, "Study"),
        "rename": (Path, "rename"),
    }[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(Killed):
            merge([a.path, b.path], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert (tmp_path / ".m.merging").is_dir()
    assert merge([a.path, b.path], tmp_path / "m").trials == 6
    assert not (tmp_path / ".m.merging").exists()


def test_kill_9_leaves_no_study(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", "trials=3"), made(tmp_path / "b", "trials=3", "seed=1")
    code = (
        "import os, signal, sys; import miras_search.merge as m\n"
        "m.Study.__exit__ = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "m.merge(sys.argv[1:3], sys.argv[3])"
    )
    words = [sys.executable, "-c", code, str(a.path), str(b.path), str(tmp_path / "m")]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "m").exists()
    assert merge([a.path, b.path], tmp_path / "m").trials == 6


def test_other_commands_take_a_merged_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = made(tmp_path / "a", "trials=4"), made(tmp_path / "b", "trials=4", "seed=1")
    m = tmp_path / "m"
    done = run("merge", str(a.path), str(b.path), f"out={m}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{m}: a study of 8 trials", str(m / "report.html")]
    assert StudyFolder(m).report_file.is_file()
    assert done.stderr == ""
    assert Table.of([StudyFolder(m)]).trials.num_rows == 8
    assert compare([a.path, m]).agreements[0].shared == len({r.digest for r in a.records()})
    again = merge([m, made(tmp_path / "c", "trials=4", "seed=2").path], tmp_path / "n")
    assert again.trials == 12
    for words in ([str(a.path), f"out={m}"], [str(a.path), str(b.path)]):
        assert main(["merge", *words]) == 2
        told = capsys.readouterr().err
        assert "merge: expected two or more folders of studies and out=FOLDER" in told

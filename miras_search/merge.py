"""Several studies of one question as one new study: every trial once, numbered without gaps."""

from __future__ import annotations

import fcntl
import secrets
import shutil
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import optuna

from miras_search import finals
from miras_search.errors import UserError, dotted
from miras_search.folder import RECORD, WEIGHTS, StudyFolder, occupied, take
from miras_search.recipe import Recipe
from miras_search.replay import numbers
from miras_search.report import text
from miras_search.samplers.base import SPEC
from miras_search.study import PHASES, Study, journal, opened, reading, study_name
from miras_search.trial import TrialSpec
from miras_search.yaml_file import flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna.trial import FrozenTrial

    from miras_search.errors import Path as Place
    from miras_search.record import TrialRecord
    from miras_search.space import Space


@dataclass(frozen=True)
class Merged:
    """What became of the studies."""

    folder: StudyFolder
    trials: int
    notes: tuple[str, ...]
    """What was left out, and why; one line each."""


@dataclass(frozen=True)
class _Found:
    """A finished trial where it lies."""

    folder: StudyFolder
    record: TrialRecord
    trial: FrozenTrial
    """As the journal has it."""

    def __str__(self) -> str:
        return f"trial {self.record.number} of {self.folder.path}"


def merge(paths: Sequence[str | Path], target: str | Path) -> Merged:
    """Write the finished trials of several studies to a new folder, a study like any other.

    They are of one space and one recipe but for the seed and for how trials are run. How the new
    one goes on is what the first says, and its trials are as many as all were asked for. The folder
    appears whole or not at all, and nothing in the studies changes.

    Raises:
        UserError: they cannot be one study, one of them is running, or the folder is taken.
    """
    folders = [StudyFolder.existing(path) for path in paths]
    if len({folder.path.resolve() for folder in folders}) < max(2, len(folders)):
        raise UserError("merge: expected two or more different folders of studies")
    target = Path(target)
    if occupied(target):
        raise UserError(f"{target}: is taken: expected a new or an empty folder in out=")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(_at_rest(folder))
            _require_same(folders[0], folder)
        found, notes, repeated = _distinct(folders)
        if not found:
            raise UserError("merge: no trial has finished: expected studies with records")
        recipe = _recipe(folders, target, repeated)
        half = target.absolute().with_name(f".{target.absolute().name}.merging")
        try:
            shutil.rmtree(half, ignore_errors=True)  # of a merge that was killed
            _write(StudyFolder(half), folders[0].space, recipe, found)
            half.rename(target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    return Merged(StudyFolder(target), len(found), tuple(notes))


@contextmanager
def _at_rest(folder: StudyFolder) -> Iterator[None]:
    """No sweep runs in the folder, nor begins to."""
    if not folder.lock_file.is_file():
        yield
        return
    with folder.lock_file.open() as lock:
        told = "a sweep is running in it: expected a study that has ended or was stopped"
        take(lock, fcntl.LOCK_SH, f"{folder.path}: {told}")
        yield


def _require_same(first: StudyFolder, other: StudyFolder) -> None:
    """Raises `UserError` with the first thing that the two were not asked alike."""
    one, two = (
        {
            "space": folder.space.to_dict() | {"name": "", "source": ""},
            "recipe": folder.recipe.deciding() | {"seed": 0},
        }
        for folder in (first, other)
    )
    for (what, *place), here, there in _differences(one, two):
        told = f"{what} has {dotted(tuple(place))}: {_short(there)}: expected {_short(here)}"
        raise UserError(f"{other.path}: its {told}, as in {first.path}")


def _differences(one: Any, two: Any, place: Place = ()) -> Iterator[tuple[Place, Any, Any]]:
    """Where plain data differ; in the order of keys last."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in {**one, **two}:
            yield from _differences(one.get(key), two.get(key), (*place, key))
        if [*one] != [*two]:
            yield place, [*one], [*two]
    elif isinstance(one, list) and isinstance(two, list):
        for i, pair in enumerate(zip_longest(one, two)):
            yield from _differences(*pair, (*place, i))
    elif one != two:
        yield place, one, two


def _short(value: Any) -> str:
    return "nothing" if value is None else flow(value)


def _recipe(folders: Sequence[StudyFolder], target: Path, repeated: int) -> Recipe:
    """That of the first study, for as many trials as all were asked for; what several of them ran
    counts once. What it knows it has of its own trials."""
    recipe = folders[0].recipe
    asked = [folder.recipe.trials for folder in folders]
    trials = None if None in asked else max(1, sum(filter(None, asked)) - repeated)
    own = {"trials": trials, "out": str(target), "warm_start": []}
    return Recipe.from_dict(recipe.to_dict() | own)


def _distinct(folders: Sequence[StudyFolder]) -> tuple[list[_Found], list[str], int]:
    """Every finished trial once, what to say of the others, and how many of the search were
    repeated.

    Of two trials of one variant, learning rate and seed the first that completed stays.
    """
    kept: dict[tuple[Any, ...], _Found] = {}
    notes: list[str] = []
    same: list[_Found] = []
    repeated = 0
    for folder in folders:
        trials = _trials(folder)
        records = folder.records()
        if cut := len(trials.keys() - {record.number for record in records}):
            notes.append(f"{folder.path}: {cut} of its trials had not finished and are left out")
        for record in records:
            if record.number not in trials:
                told = f"does not know of trial {record.number}: expected this study's journal"
                raise UserError(f"{folder.journal_file}: {told}")
            found = _Found(folder, record, trials[record.number])
            key = (record.phase, record.digest, record.lr, record.seed)
            first = kept.setdefault(key, found)
            if first is found:
                continue
            repeated += record.phase == "search"
            if numbers(record) == numbers(first.record):
                same.append(found)
                continue
            if first.record.score is None and record.score is not None:
                kept[key] = found
            notes.append(
                f"{found} is {first} again and came out otherwise: {_ending(record)}, and "
                f"{_ending(first.record)}; kept is {kept[key]}"
            )
    if same:
        notes.append(f"{len(same)} trials were run twice and came out the same: kept once")
    return [*kept.values()], notes, repeated


def _ending(record: TrialRecord) -> str:
    return f"{record.state} {text.score(record.score)}"


def _trials(folder: StudyFolder) -> dict[int, FrozenTrial]:
    """What the journal has of each trial that was given out, read from a copy."""
    found = {}
    with TemporaryDirectory() as scratch, reading(folder.journal_file):
        copy = Path(scratch) / folder.journal_file.name
        if folder.journal_file.is_file():
            shutil.copyfile(folder.journal_file, copy)
        storage = journal(copy)
        for name in optuna.get_all_study_names(storage):
            for trial in optuna.load_study(study_name=name, storage=storage).trials:
                if SPEC in trial.user_attrs:
                    spec = TrialSpec.model_validate_json(trial.user_attrs[SPEC])
                    found[spec.number] = trial
    return found


def _write(folder: StudyFolder, space: Space, recipe: Recipe, found: Sequence[_Found]) -> None:
    """study.json comes after what cannot be made again, and then what a study writes by itself."""
    name = study_name(space, recipe)
    identity = {
        "name": name,
        "id": f"{name}-{secrets.token_hex(3)}",
        "space": space.digest,
        "recipe": recipe.digest,
        "merged": list(dict.fromkeys(one.folder.identity["id"] for one in found)),
    }
    records = [one.record.model_copy(update={"number": i}) for i, one in enumerate(found)]
    needed = {record.number for record in finals.kept(records, recipe)}
    for one, record in zip(found, records, strict=True):
        spared = [RECORD, ".*", *([] if record.number in needed else [WEIGHTS])]
        shutil.copytree(
            one.folder.trial(one.record.number),
            folder.trial(record.number),
            ignore=shutil.ignore_patterns(*spared),
        )
        record.write(folder.record_file(record.number))
    storage = journal(folder.journal_file)
    for phase in PHASES:
        own = [
            _renumbered(one, record, folder, identity["id"])
            for one, record in zip(found, records, strict=True)
            if record.phase == phase
        ]
        if own:
            study = opened(storage, name, phase, recipe)
            for trial in own:
                study.add_trial(trial)
    folder.create(identity, space, recipe)
    with Study(folder, recipe):
        pass


def _renumbered(one: _Found, record: TrialRecord, folder: StudyFolder, study: str) -> FrozenTrial:
    trial = deepcopy(one.trial)
    spec = TrialSpec.model_validate_json(trial.user_attrs[SPEC])
    own = {"number": record.number, "folder": str(folder.trial(record.number)), "study": study}
    trial.user_attrs[SPEC] = spec.model_copy(update=own).model_dump_json()
    return trial

"""The folder of a study: what lies where, and how to read it without running anything."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from miras_search.errors import UserError
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord, write_whole
from miras_search.space import Space

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORD = "record.json"
"""The record of a trial, in its folder."""
WEIGHTS = "model.safetensors"
CONFIG = "model.yaml"
"""What `checkpoint.load` reads; weights stay only where `finals.kept` says."""


@dataclass(frozen=True)
class StudyFolder:
    """Paths and contents of one study.

    study.json, space.yaml and recipe.yaml say what was asked, warm_start.json what was known
    before; trials/<number>/ holds each trial's record and checkpoint; journal.log is Optuna's;
    leaderboard.csv, best.yaml, best/, report.html, figures/ and wandb/ are results.
    """

    path: Path

    @classmethod
    def existing(cls, path: str | Path) -> StudyFolder:
        """The folder of a study that was begun.

        Raises:
            UserError: there is no study in the folder, or its study.json is damaged.
        """
        folder = cls(Path(path))
        if not folder.study_file.is_file():
            raise UserError(
                f"{path or repr(path)}: not a study folder: expected {folder.study_file.name} in it"
            )
        _ = folder.identity  # if it is damaged, that comes before all else
        return folder

    def create(self, identity: dict[str, Any], space: Space, recipe: Recipe) -> None:
        """Write what is asked; study.json last, so that a folder with it is whole."""
        write_whole(self.space_file, space.to_yaml())
        self.update_recipe(recipe)
        write_whole(self.study_file, json.dumps(identity, indent=2) + "\n")

    def update_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe: how trials are run may change when a study is resumed."""
        write_whole(self.recipe_file, recipe.to_yaml())

    def lock(self) -> IO[str]:
        """The study for this process alone, until the file is closed.

        Raises:
            UserError: another process has it, or it cannot be locked.
        """
        lock = self.lock_file.open("w")
        try:
            take(lock, fcntl.LOCK_EX, f"{self.path}: another sweep is running in it")
        except UserError:
            lock.close()
            raise
        return lock

    @property
    def taken(self) -> bool:
        """Whether something lies there that is no study, nor what a sweep that was killed had
        written before one began: it locks the folder first."""
        if not self.path.is_dir():
            return self.path.exists()
        if not self.lock_file.is_file():
            return any(self.path.iterdir())
        ours = {self.space_file, self.recipe_file, self.warm_start_file, self.lock_file}
        return any(f not in ours and f.name[0] != "." for f in self.path.iterdir())

    @property
    def study_file(self) -> Path:
        return self.path / "study.json"

    @property
    def space_file(self) -> Path:
        return self.path / "space.yaml"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def journal_file(self) -> Path:
        return self.path / "journal.log"

    @property
    def warm_start_file(self) -> Path:
        """What earlier studies had found when this one began; only if it was to know."""
        return self.path / "warm_start.json"

    @property
    def lock_file(self) -> Path:
        """Held by the sweep that runs in the folder."""
        return self.path / "lock"

    @property
    def leaderboard_file(self) -> Path:
        return self.path / "leaderboard.csv"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """Each figure of the report as <name>.svg, and what it shows as <name>.csv."""
        return self.path / "figures"

    @property
    def best_file(self) -> Path:
        """The best variant, as a space of size one."""
        return self.path / "best.yaml"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "best"

    def trial(self, number: int) -> Path:
        """The folder of one trial."""
        return self.path / "trials" / f"{number:05d}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """study.json: name, id and digests."""
        try:
            found = json.loads(self.study_file.read_text(encoding="utf-8"))
            return {key: found[key] for key in ("name", "id", "space", "recipe")}
        except KeyError as error:
            why = f"{error} is not in it"
        except TypeError:
            why = "no mapping"
        except (OSError, ValueError) as error:
            why = str(error)
        raise UserError(f"{self.study_file}: expected what a sweep wrote there: {why}")

    @cached_property
    def space(self) -> Space:
        """The space that is searched."""
        return Space.load(self.space_file)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was last run."""
        return Recipe.load(self.recipe_file)

    def record_file(self, number: int) -> Path:
        """The record of one trial; it exists once the trial has finished."""
        return self.trial(number) / RECORD

    def record(self, number: int) -> TrialRecord | None:
        """The record of a finished trial.

        Raises:
            UserError: it cannot be read, or is of another trial.
        """
        file = self.record_file(number)
        if not file.is_file():
            return None
        found = TrialRecord.read(file)
        if found.number != number:
            raise UserError(f"{file}: is of trial {found.number}: expected that of trial {number}")
        return found

    def finished(self) -> list[int]:
        """The trials that have a record; folders of other names are none of ours.

        Raises:
            UserError: there are no trials any more, though a leaderboard has some.
        """
        trials = self.path / "trials"
        if not trials.is_dir():
            known = self.leaderboard_file
            if known.is_file() and known.read_bytes().count(b"\n") > 1:
                told = f"is not there, but {known.name} has trials: expected their records in it"
                raise UserError(f"{trials}: {told}")
            return []
        numbers = sorted(int(name) for name in os.listdir(trials) if name.isdecimal())
        return [n for n in dict.fromkeys(numbers) if self.record_file(n).is_file()]

    def records(self) -> list[TrialRecord]:
        """The records of all finished trials by number.

        Raises:
            UserError: as `finished` and `record` do.
        """
        found = (self.record(number) for number in self.finished())
        return [record for record in found if record is not None]


def occupied(path: Path) -> bool:
    """Whether something lies there: anything but an empty folder."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def take(lock: IO[str], kind: int, held: str) -> None:
    """Lock an open file.

    Raises:
        UserError: another process has it (the message is `held`), or its file system has no locks.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(held) from None
    except OSError as error:
        why = f"{error.strerror}: expected a file system with locks (flock)"
        raise UserError(f"{lock.name}: cannot be locked: {why}") from None


def ranked(records: Iterable[TrialRecord], recipe: Recipe) -> list[TrialRecord]:
    """Trials of the search: complete ones from best to worst, then the others; ties by number."""
    sign = -1 if recipe.task.direction == "maximize" else 1

    def key(record: TrialRecord) -> tuple[bool, float, int]:
        return (record.score is None, sign * (record.score or 0.0), record.number)

    return sorted((record for record in records if record.phase == "search"), key=key)

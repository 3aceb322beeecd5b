"""A look at a study while a sweep works in its folder, or later: nothing there is written."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, Field

from miras_search import finals, view
from miras_search.errors import UserError
from miras_search.record import TrialRecord
from miras_search.report import sentences, text
from miras_search.report.leaderboard import (
    best_per_variant,
    finals_table,
    shared_choices,
    variants_table,
)
from miras_search.samplers.base import SPEC
from miras_search.study import reading, repeats, total_finals, total_trials
from miras_search.trial import TrialSpec
from miras_search.variant import Variant

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from miras_search.folder import StudyFolder
    from miras_search.recipe import Recipe

SHOWN = 10
"""Variants of the leaderboard."""


class Settings(BaseModel, frozen=True):
    """What `watch` can be told."""

    model_config = ConfigDict(extra="forbid")

    every: Annotated[float, Field(ge=0.1, le=3600)] = 1.0
    """Seconds from one look to the next."""


def watch(folder: StudyFolder, settings: Settings, console: Console) -> None:
    """Show a study until it is complete; where there is no terminal, once."""
    study = Watched(folder)
    study.look()
    if console.is_terminal and not console.is_dumb_terminal:
        from rich.live import Live

        shown = study.shown(console.width)
        how: dict[str, Any] = {"auto_refresh": False, "transient": True}
        with Live(shown, console=console, vertical_overflow="crop", **how) as live:
            while not study.complete:
                time.sleep(settings.every)
                study.look()
                live.update(study.shown(console.width), refresh=True)
    console.print(study.shown(console.width))


class Watched:
    """What the folder of a study tells, as of the last `look`."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.records: dict[int, TrialRecord] = {}
        self.running: list[view.Running] = []
        self.unread = 0
        """Records that cannot be read: half copied, or damaged."""
        self._recipe: Recipe | None = None
        self._repeated = 0
        self._journal: JournalStorage | None = None

    def look(self) -> None:
        """Read what is new. What is not yet whole is left for the next look.

        Raises:
            UserError: the folder does not hold what a sweep writes.
        """
        space, recipe = self.folder.space, self.folder.recipe
        # Before the records: what ends in between is shown as ended.
        running, self.unread = self._unfinished(), 0
        for number in self.folder.finished():
            if number not in self.records:
                try:
                    found = self.folder.record(number)
                except UserError:
                    self.unread += 1
                else:
                    self.records |= {number: found} if found else {}
        self.running = [run for run in running if run.spec.number not in self.records]
        repeated = repeats(self.records.values())
        if (recipe, repeated) != (self._recipe, self._repeated):
            self._recipe, self._repeated = recipe, repeated
            self._budget = total_trials(space, recipe, repeated)
            self._finals = total_finals(space, recipe)

    @property
    def recipe(self) -> Recipe:
        """As it was last run."""
        assert self._recipe is not None, "look comes first"
        return self._recipe

    @property
    def total(self) -> int:
        """Trials of the search, and of the finals as far as they are known."""
        records = self.records.values()
        # Runs of those who have no part any more, as another leads now, are trials too.
        known = len(finals.wanted(records, self.recipe).keys() | finals.played(records).keys())
        settled = self._searched and finals.settled(records, self.recipe)
        return self._budget + (known if settled else max(known, self._finals))

    @property
    def complete(self) -> bool:
        """Whether a sweep would find nothing more to do."""
        records = self.records.values()
        wanted = finals.wanted(records, self.recipe)
        return self._searched and wanted.keys() <= finals.played(records).keys()

    @property
    def _searched(self) -> bool:
        return sum(r.phase == "search" for r in self.records.values()) >= self._budget

    def shown(self, width: int) -> RenderableType:
        """The study on `width` columns."""
        from rich.console import Group
        from rich.text import Text

        records, recipe = [*self.records.values()], self.recipe
        told = view.counts(records, self.running, self.total)
        if self.unread:
            told.append(f"{self.unread} unreadable")
        if not self.complete:
            told += self._pace(records)
        entries = best_per_variant(records, recipe)
        scored = [entry.best for entry in entries if entry.best.score is not None]
        shown = [view.table(told, scored[0] if scored else None, self.running, recipe)]
        shared = shared_choices(entries)
        outcome = finals.standing(records, recipe)
        if entries:
            shown.append(variants_table(entries[:SHOWN], shared, width, outcome))
        if outcome is not None:
            shown.append(finals_table(outcome, shared, width))
            shown.append(Text(sentences.verdict(records, outcome, recipe)))
        return Group(*shown)

    def _pace(self, records: list[TrialRecord]) -> list[str]:
        """How fast it goes, how long it takes, and when something was last heard of it."""
        told: list[str] = []
        workers = max(1, len(self.running))
        left = view.time_left(records, self.running, self.total, workers)
        if left is not None:
            hourly = 3600 * workers * len(records) / max(1e-3, sum(r.seconds for r in records))
            many = text.count(round(hourly)) if hourly >= 100 else f"{hourly:.3g}"
            told += [f"{many} an hour", f"about {text.duration(left)} left"]
        journal = self.folder.journal_file
        if journal.is_file():
            told.append(f"last news {text.duration(time.time() - journal.stat().st_mtime)} ago")
        return told

    def _unfinished(self) -> list[view.Running]:
        """The trials that the journal knows no end of, by number."""
        if not self.folder.journal_file.is_file():
            return []
        found = []
        with reading(self.folder.journal_file):
            # Reading takes no lock and passes over a line that is being written.
            backend = JournalFileBackend(str(self.folder.journal_file))
            self._journal = self._journal or JournalStorage(backend)
            name = self.folder.identity["name"]
            for study in self._journal.get_all_studies():
                if study.study_name not in (name, f"{name}-finals"):
                    continue
                trials = self._journal.get_all_trials(study._study_id, deepcopy=False)
                found += [t for t in trials if t.state == TrialState.RUNNING]
        running = []
        for trial in found:
            if SPEC not in trial.user_attrs:
                continue
            spec = TrialSpec.model_validate_json(trial.user_attrs[SPEC])
            step = trial.last_step
            since = (datetime.now() - (trial.datetime_start or datetime.now())).total_seconds()
            running.append(
                view.Running(
                    spec,
                    str(Variant.from_dict(spec.variant)),
                    time.monotonic() - since,
                    step or 0,
                    None if step is None else trial.intermediate_values[step],
                )
            )
        return sorted(running, key=lambda run: run.spec.number)

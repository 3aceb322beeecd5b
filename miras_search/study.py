"""A study: one Optuna study in journal storage, asked and told by whoever runs the trials."""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from miras_search import finals, pareto, pruning, reach, samplers, wandb_log, warm_start
from miras_search.errors import UserError
from miras_search.folder import WEIGHTS, StudyFolder
from miras_search.interrupts import CTRL_C
from miras_search.recipe import RUNNING
from miras_search.record import write_whole
from miras_search.report import text
from miras_search.report.leaderboard import write_csv
from miras_search.samplers.base import COSTS, SPEC, STOPPED, Exhausted
from miras_search.search.candidate import LR, OptunaChooser, draw
from miras_search.search.domain import domain
from miras_search.trial import TrialSpec
from miras_search.variant import Variant
from miras_search.warm_start import Source
from miras_search.yaml_file import dump, flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from miras_search.recipe import Recipe
    from miras_search.record import Phase, Point, TrialRecord
    from miras_search.samplers.base import Sampler
    from miras_search.search.domain import Domain
    from miras_search.space import Space


PHASES: tuple[Phase, ...] = ("search", "finals")
"""In their order."""
LONGEST = 64
"""Letters of a study's name: wandb adds to it, and takes 128 for a table."""
COUNTED = 20_000
"""Combinations of a space that are told apart for a report."""


class Study:
    """What is to be tried, what runs and what is known, in one folder.

    A context manager that locks the folder. Opening a folder again resumes it: finished trials
    are kept, and trials that were cut off are given out again under their number.
    """

    def __init__(self, folder: StudyFolder, recipe: Recipe) -> None:
        self.folder, self.recipe, self.space = folder, recipe, folder.space
        self._budget = total_trials(self.space, recipe)
        self.records: list[TrialRecord] = []
        self._live: dict[int, tuple[TrialSpec, optuna.Trial]] = {}
        self._pending: list[tuple[TrialSpec, optuna.Trial]] = []
        self._finals: set[finals.Run] = set()
        self.unfound = 0
        """Trials that were asked for, and no point was found for them."""
        self._published: int | None = None
        """How many of the records the files show."""

    @classmethod
    def begin(cls, space: Space, recipe: Recipe) -> Study:
        """The study of a space and a recipe: a new one, or the one its folder already holds.

        Raises:
            UserError: the search cannot be done, or the folder is taken by something else.
        """
        total_trials(space, recipe)
        name = study_name(space, recipe)
        folder = StudyFolder(Path(recipe.out or Path("runs") / name))
        asked = {"space": space.digest, "recipe": recipe.digest}
        if not folder.study_file.is_file():
            if folder.taken and not folder.study_file.is_file():  # by another sweep, just now
                told = "is taken: expected a new folder or a study's in out="
                raise UserError(f"{folder.path}: {told}")
            sources = _sources(recipe)
            # One study run in two folders must be two groups on wandb.
            unique = f"{name}-{secrets.token_hex(3)}"
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
                with folder.lock():
                    # Another sweep may have been quicker.
                    if not folder.study_file.is_file():
                        # Of one that was cut off before it began.
                        folder.warm_start_file.unlink(missing_ok=True)
                        if sources:
                            warm_start.write(folder.warm_start_file, sources)
                        folder.create({"name": name, "id": unique, **asked}, space, recipe)
            except OSError as error:
                raise UserError(f"{folder.path}: cannot be written: {error.strerror}") from None
        differing = [key for key, digest in asked.items() if folder.identity[key] != digest]
        if differing:
            raise UserError(
                f"{folder.path}: holds the study of another {' and '.join(differing)}: "
                "expected the same, or another folder in out="
            )
        if recipe.warm_start != (begun := folder.recipe.warm_start):
            told = f"began with warm_start={flow([*begun])}: expected the same"
            raise UserError(f"{folder.path}: {told}, or another folder in out=")
        return cls(folder, recipe)

    def __enter__(self) -> Study:
        self._lock = self.folder.lock()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with reading(self.folder.journal_file):
                self._storage = self._open_journal()
                self.folder.update_recipe(self.recipe)
                self._optuna = self._opened("search")
                self._resume()
        except BaseException:
            self._lock.close()
            raise
        CTRL_C.begin()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.publish()
        finally:
            CTRL_C.end()
            self._lock.close()

    @property
    def total(self) -> int:
        """Trials of the search, and of the finals as far as they are known."""
        known = self._finals | finals.wanted(self.records, self.recipe).keys()
        searching = any(spec.phase == "search" for spec, _ in self._live.values())
        searched = self._searched >= self._budget and not searching
        if not (searched and finals.settled(self.records, self.recipe)):
            return self._budget + max(self._planned, len(known))
        return self._budget + len(known)

    @property
    def asked(self) -> int:
        """Trials given out so far, finished or not."""
        return len(self.records) + len(self._live) + len(self._pending)

    @property
    def _searched(self) -> int:
        """Of these, how many are of the search."""
        return self.asked - len(self._finals)

    @CTRL_C.held()
    def ask(self) -> TrialSpec | None:
        """The next trial to run: None while there is none, and for good if no trial is running.

        The finals begin when the search has ended.
        """
        if self._pending:
            spec, trial = self._pending.pop(0)
            self._live[spec.number] = (spec, trial)
            return spec
        return self._next_of_search() or self._next_of_finals()

    def _next_of_search(self) -> TrialSpec | None:
        """A point that was not tried, or None when the budget or the space is exhausted."""
        if self._searched >= self._budget:
            return None
        self._optuna.sampler = self._sampler
        trial = self._optuna.ask()
        try:
            point = draw(self.space, self.recipe, OptunaChooser(trial)).candidate
        except Exhausted:
            self._optuna.tell(trial, state=TrialState.FAIL)
            self.unfound = self._budget - self._searched
            self._budget = self._searched
            return None
        assert point is not None, "samplers propose feasible points"
        return self._give_out(
            trial,
            variant=point.variant.to_dict(),
            lr=point.lr,
            seed=self.recipe.seed,
            recipe=point.recipe.to_dict(),
        )

    def _next_of_finals(self) -> TrialSpec | None:
        """A finalist on a new seed, once it is known who is one."""
        if any(spec.phase == "search" for spec, _ in self._live.values()):
            return None
        for run, found in finals.wanted(self.records, self.recipe).items():
            if run not in self._finals:
                own = {"size": found.recipe["size"], "match": None}
                spec = self._give_out(
                    # A study of its own: the sampler never sees it.
                    self._opened("finals").ask(),
                    variant=found.variant,
                    lr=found.lr,
                    seed=run[2],
                    phase="finals",
                    recipe=self.recipe.to_dict() | own,
                )
                self._finals.add(run)
                return spec
        return None

    @CTRL_C.held()
    def hear(self, number: int, point: Point) -> str | None:
        """Take an evaluation of a running trial; why the trial shall stop there, if it shall."""
        _, trial = self._live[number]
        known = trial.storage.get_trial(trial._trial_id)
        # One that runs again went on here before, or has a result that the journal keeps.
        if known.state.is_finished() or point.step < (known.last_step or 0):
            return None
        _report(trial, [point])
        # A pruner keeps notes of its own, and may not answer alike when it is asked again.
        if known.user_attrs.get(STOPPED) != point.step:
            if point.step >= self.recipe.steps or not trial.should_prune():
                return None
            trial.set_user_attr(STOPPED, point.step)
        return (
            f"at step {point.step} of {self.recipe.steps}: its score was not among the best there"
        )

    @CTRL_C.held()
    def give_back(self, number: int) -> None:
        """Take back a trial that was lost with whoever ran it: it is asked for again."""
        lost = self._live.pop(number)
        self._forget(lost[0])
        self._pending.append(lost)

    @CTRL_C.held()
    def tell(self, record: TrialRecord) -> None:
        """Take the result of a trial; `publish` shows it."""
        _, trial = self._live.pop(record.number)
        if not _told(trial):
            _report(trial, record.curve)
            if record.state == "pruned":
                trial.study.tell(trial, state=TrialState.PRUNED)
            elif record.score is None:
                trial.set_user_attr("reason", f"{record.state}: {record.reason}")
                trial.study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr(
                    COSTS, {cost: pareto.cost(record, cost) for cost in pareto.COSTS}
                )
                trial.study.tell(trial, record.score)
        self.records.append(record)

    @CTRL_C.held()
    def publish(self) -> None:
        """Bring the files that people read up to date, and keep the weights that may be needed.

        It takes the longer the more trials there are: whoever runs them calls it while they run.
        """
        if self._published == len(self.records):
            return
        self._published = len(self.records)
        write_csv(self.folder, self.records, self.recipe)
        best = self.best
        if best is None:
            return
        link = self.folder.best_checkpoint
        variant = Variant.from_dict(best.variant)
        write_whole(self.folder.best_file, dump(variant.to_yaml_dict()))
        new = link.with_name(".best")
        new.unlink(missing_ok=True)
        new.symlink_to(self.folder.trial(best.number).relative_to(self.folder.path))
        new.replace(link)
        needed = {record.number for record in finals.kept(self.records, self.recipe)}
        for record in self.records:
            if record.number not in needed:
                (self.folder.trial(record.number) / WEIGHTS).unlink(missing_ok=True)

    @property
    def best(self) -> TrialRecord | None:
        """The trial that stands for the study; see `finals.winner`."""
        return finals.winner(self.records, self.recipe)

    @cached_property
    def _sampler(self) -> Sampler:
        pick = samplers.find(self.recipe.sampler)
        leaders = warm_start.leaders(self.sources, self._domain) if pick.learns else ()
        sampler = pick(self._domain, self.recipe.seed, leaders)
        sampler.objectives = self.recipe.objectives
        return sampler

    @cached_property
    def _domain(self) -> Domain[Any]:
        return domain(self.space, self.recipe)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Earlier studies, as they were when this one began."""
        return warm_start.read(self.folder.warm_start_file)

    def told_of_sources(self) -> list[str]:
        """A line for each of them."""
        return warm_start.told(self.sources, self._domain) if self.sources else []

    def _opened(self, phase: Phase) -> optuna.Study:
        return opened(self._storage, self.folder.identity["name"], phase, self.recipe)

    def _give_out(self, trial: optuna.Trial, **what: Any) -> TrialSpec:
        """Start a trial of what is run, in the fields of its spec."""
        number = self.asked
        spec = TrialSpec(
            number=number,
            study=self.folder.identity["id"],
            space=self.space.to_yaml(),
            **what | self._here(number, what["recipe"]),
        )
        trial.set_user_attr(SPEC, spec.model_dump_json())
        self._live[number] = (spec, trial)
        return spec

    def _here(self, number: int, recipe: dict[str, Any]) -> dict[str, Any]:
        """Where and how a trial runs, in the fields of its spec: the folder may have been moved
        since it was given out, and the study resumed in another way."""
        now = self.recipe.to_dict()
        return {
            "folder": str(self.folder.trial(number).absolute()),
            "cwd": str(Path.cwd()),
            "wandb": wandb_log.mode(self.recipe.wandb),
            "recipe": recipe | {name: now[name] for name in RUNNING},
        }

    def _open_journal(self) -> JournalStorage:
        """What the sweep wrote, or a new one.

        Raises:
            UserError: trials have records of which it does not know. It lost something, and others
                would run under their numbers, over their records.
        """
        file, finished = self.folder.journal_file, self.folder.finished()
        storage = journal(file) if file.is_file() or not finished else None
        known = {*_numbers(storage)} if storage else set()
        unknown = [number for number in finished if number not in known]
        if storage is not None and not unknown:
            return storage
        told = f"knows nothing of {text.many(len(unknown), 'trial')} with a record, of which "
        told += f"{unknown[0]} is the first: expected the whole journal that the sweep wrote"
        raise UserError(f"{file}: {told}; bring it back, or begin in another folder in out=")

    def _resume(self) -> None:
        """Take up what an earlier process left, told or not."""
        begun = len(optuna.get_all_study_names(self._storage)) > 1
        for phase in PHASES if begun else PHASES[:1]:
            self._take_up(self._opened(phase))
        self._budget = total_trials(self.space, self.recipe, repeats(self.records))
        self._planned = total_finals(self.space, self.recipe)
        self.publish()

    def _forget(self, spec: TrialSpec) -> None:
        """What a trial that runs again has logged so far."""
        wandb_log.forget(self.folder.path, spec.study, wandb_log.trial_part(spec.number))

    def _take_up(self, study: optuna.Study) -> None:
        for old in study.get_trials(deepcopy=False):
            if SPEC not in old.user_attrs:
                if old.state == TrialState.RUNNING:  # cut off before it was given out
                    study.tell(old.number, state=TrialState.FAIL)
                continue
            spec = TrialSpec.model_validate_json(old.user_attrs[SPEC])
            spec = spec.model_copy(update=self._here(spec.number, spec.recipe))
            if spec.phase == "finals":
                digest = Variant.from_dict(spec.variant).digest
                self._finals.add((digest, spec.lr, spec.seed))
            record = self.folder.record(spec.number)
            if record is not None and old.state.is_finished():
                self.records.append(record)
                continue
            trial = optuna.Trial(study, old._trial_id)
            if record is None:
                self._forget(spec)
                self._pending.append((spec, trial))
            else:
                self._live[spec.number] = (spec, trial)
                self.tell(record)


def _numbers(storage: JournalStorage) -> Iterator[int]:
    """The trials that were given out."""
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            if SPEC in trial.user_attrs:
                yield json.loads(trial.user_attrs[SPEC])["number"]


def _report(trial: optuna.Trial, curve: Iterable[Point]) -> None:
    """Tell Optuna of evaluations that it does not know; a trial that runs again repeats some."""
    known = trial.storage.get_trial(trial._trial_id).intermediate_values
    for point in curve:
        if point.step not in known:
            trial.report(point.score, point.step)


def study_name(space: Space, recipe: Recipe) -> str:
    """Readable, and different as soon as anything that decides a result differs."""
    told = sha256(f"{space.digest} {recipe.digest}".encode()).hexdigest()[:6]
    # A name is for people and may be anything; a folder below runs/ may not.
    letters = unicodedata.normalize("NFKD", f"{space.name} {recipe.name}").encode("ascii", "ignore")
    words = re.findall(r"\w+", letters.decode())
    return "-".join([*words, told])[-LONGEST:].lstrip("-")


def journal(file: Path) -> JournalStorage:
    """Where the Optuna studies of a folder are kept; the caller has it to itself."""
    return JournalStorage(JournalFileBackend(str(_mended(file))))


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raises `UserError` where a line is no entry of an Optuna journal."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        told = f"expected an Optuna journal, one entry a line, as the sweep wrote it: {error!r}"
        raise UserError(
            f"{file}: {told}; bring it back, or begin in another folder in out="
        ) from None


def opened(storage: JournalStorage, name: str, phase: Phase, recipe: Recipe) -> optuna.Study:
    """The Optuna study of a phase, in the same journal. No trial of the finals is pruned."""
    searches = phase == "search"
    return optuna.create_study(
        storage=storage,
        study_name=name if searches else f"{name}-{phase}",
        direction=recipe.task.direction,
        load_if_exists=True,
        pruner=pruning.pruner(recipe) if searches else optuna.pruners.NopPruner(),
    )


def _sources(recipe: Recipe) -> list[Source]:
    """Raises `UserError` where there is none to be read, or nobody would listen."""
    if recipe.warm_start and not samplers.find(recipe.sampler).learns:
        able = ", ".join(name for name in samplers.names() if samplers.find(name).learns)
        told = f"warm_start: sampler {recipe.sampler} learns nothing: expected one of: {able}"
        raise UserError(told)
    return [Source.of(path) for path in recipe.warm_start]


def total_trials(space: Space, recipe: Recipe, repeats: int = 0) -> int:
    """How many trials a study runs: what the recipe says, at most every distinct point, beside
    those that repeat one with another seed.

    Raises:
        UserError: all are asked for and there is no end to them.
    """
    # A rate may be named twice.
    rates = None if recipe.lr.count() is None else len({*map(float, recipe.lr.values())})
    endless = reach.uncountable(space, recipe)
    if endless is None and rates is not None:
        points = reach.count(space, recipe) * rates + repeats
        return points if recipe.trials is None else min(recipe.trials, points)
    why = endless or recipe.lr.continuous(LR)
    if recipe.sampler == "grid":
        raise UserError(f"sampler grid needs a finite space: {why}; list values, or use gp")
    if recipe.trials is None:
        raise UserError(f"trials is required where there is no last point: {why}")
    return recipe.trials


def left(space: Space, recipe: Recipe, records: Sequence[TrialRecord]) -> int:
    """How many trials of the search did not run yet; 0 where all of a large space
    are asked for."""
    asked, counted = recipe.trials, space.infinite is None and space.combinations <= COUNTED
    if counted and not reach.uncountable(space, recipe) and recipe.lr.count() is not None:
        asked = total_trials(space, recipe, repeats(records))
    return max(0, (asked or 0) - sum(record.phase == "search" for record in records))


def repeats(records: Iterable[TrialRecord]) -> int:
    """Trials of points that others had with another seed: a study that was merged has such."""
    searched = [(record.digest, record.lr) for record in records if record.phase == "search"]
    return len(searched) - len({*searched})


def total_finals(space: Space, recipe: Recipe) -> int:
    """How many trials the finals are at most."""
    ablations = len(space.varying) if recipe.ablations and recipe.finalists else 0
    variants = min(recipe.finalists + ablations, total_trials(space, recipe))
    if reach.uncountable(space, recipe) is None:
        variants = min(variants, reach.count(space, recipe))
    return variants * recipe.seeds


def _told(trial: optuna.Trial) -> bool:
    """Whether the journal has the result already: a trial runs again if its record was lost."""
    return trial.study.get_trials(deepcopy=False)[trial.number].state.is_finished()


def _mended(journal: Path) -> Path:
    """The journal as a killed process left it, made fit to go on.

    Optuna refuses a journal with a line that was cut off in writing, and waits half a minute
    for a lock whose holder is gone. The folder's own lock proves that nobody else writes.
    """
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.is_file():
        with journal.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    return journal

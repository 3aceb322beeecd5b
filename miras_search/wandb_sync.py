"""The offline runs of a study on wandb's server, by wandb's own `wandb sync`."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from miras_search.errors import UserError
from miras_search.wandb_log import PROJECT, SUMMARY, offline_runs, run_id, trial_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miras_search.folder import StudyFolder
    from miras_search.record import TrialRecord


WHOLE = ("finished", "failed")
"""States of a run on the server that was told how it ended: of a trial that failed it is that."""


class Synced(NamedTuple):
    """What became of the runs of a study."""

    uploaded: int
    there: int
    """On the server before; they were left as they are."""
    unfinished: list[str]
    """Ids of those among them that the server does not have whole."""
    gone: int
    """Uploaded once, but not on this server."""


def sync(folder: StudyFolder) -> Synced:
    """Upload the offline runs of the trials that have ended, and the run with the tables.

    Ids are those of the study, so that the server can be asked what it has. A trial's run that is
    there is never written to; the tables are, where they are of fewer trials. A run that was
    uploaded and is not there is left alone: its server is another, or it was deleted, and wandb
    takes no id a second time.

    Raises:
        UserError: nobody is logged in, the server refuses, the study is running, a copy of it
            has put other trials there, or it has no runs here or there.
    """
    lock = folder.lock()
    try:
        api, study = connect(), folder.identity["id"]
        there, new, left, unfinished, gone = known(api, study), [], 0, [], 0
        known_trials = {trial_part(record.number): record for record in folder.records()}
        for part, run in _ended(folder).items():
            before = there.get(run_id(study, part))
            if before is not None and not _same(before, known_trials.get(part)):
                raise UserError(
                    f"{folder.path}: the server has another trial as {before.id}: a copy of this "
                    "study went on by itself, and wandb takes no id twice"
                )
            behind = part == SUMMARY and before and _step(before) < len(folder.records())
            if not _synced(run) and (before is None or behind):
                new.append(run)
                continue
            left += before is not None
            gone += before is None
            if before is not None and before.state not in WHOLE:
                unfinished.append(before.id)
        if not (new or left or gone or there):
            told = "no run to upload: expected trials that were logged offline"
            raise UserError(f"{folder.path}: {told} (a study that was merged has none of its own)")
        if new:
            subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, new)], check=False)
        missing = [run.name for run in new if not _synced(run)]
        if missing:
            raise UserError(
                f"{folder.path}: wandb did not upload {len(missing)} of {len(new)} runs: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            )
        return Synced(len(new), left, unfinished, gone)
    finally:
        lock.close()


@contextmanager
def asking() -> Iterator[None]:
    """What the server or the way to it refuses, as a `UserError`: wandb raises errors of many
    packages, so nothing but calls of wandb belongs in here."""
    try:
        yield
    except Exception as error:
        server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        raise UserError(f"wandb at {server}: {error}") from None


def connect() -> Any:
    """The public API of wandb.

    Raises:
        UserError: nobody is logged in, or the server does not answer.
    """
    # Who asks for the server means it, also where WANDB_MODE keeps runs from it.
    os.environ["WANDB_MODE"] = "online"
    import wandb

    with asking():
        if wandb.login(prompt=False):
            return wandb.Api()
    raise UserError("wandb: not logged in: expected a key from `wandb login` or in WANDB_API_KEY")


def known(api: Any, study: str) -> dict[str, Any]:
    """The runs of a study that the server has, by id.

    Raises:
        UserError: the server does not answer.
    """
    only = {"group": study}
    with asking():
        try:
            return {run.id: run for run in api.runs(PROJECT, filters=only, lazy=False)}
        except ValueError:  # no such project yet
            return {}


def _ended(folder: StudyFolder) -> dict[str, Path]:
    """The newest offline run of each part that has ended."""
    parts = [*(trial_part(record.number) for record in folder.records()), SUMMARY]
    runs = {part: offline_runs(folder.path, folder.identity["id"], part) for part in parts}
    return {part: found[-1] for part, found in runs.items() if found}


def _same(run: Any, record: TrialRecord | None) -> bool:
    """Whether a run of the server may be that of a trial; any may be that of the tables."""
    if record is None:
        return True
    mine = {"digest": record.digest, "lr": record.lr, "seed": record.seed}
    return all(run.config.get(name, value) == value for name, value in mine.items())


def _synced(run: Path) -> bool:
    """Whether wandb has marked an offline run as uploaded."""
    return any(run.glob("*.wandb.synced"))


def _step(run: Any) -> int:
    """The last step that the server has of a run."""
    with asking():
        return run.lastHistoryStep

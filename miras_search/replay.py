"""A trial once more, from its record alone, and whether it came out the same."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from miras_search.errors import UserError
from miras_search.report import text
from miras_search.report.leaderboard import variant_of
from miras_search.trial import Pruned, TrialSpec, run, versions

if TYPE_CHECKING:
    from rich.console import Console

    from miras_search.folder import StudyFolder
    from miras_search.record import Point, TrialRecord


def replay(folder: StudyFolder, number: int, console: Console) -> bool:
    """Train a trial of a study again, print both curves, and say whether they are equal.

    Nothing in the study changes. The numbers are equal to the last digit on the same kind of
    machine, with the same versions and as many threads. A trial that was stopped early is stopped
    there.

    Raises:
        UserError: there is no record of the trial.
    """
    record = folder.record(number)
    if record is None:
        raise UserError(f"{folder.record_file(number)}: no such file: expected a finished trial")
    how = f"lr {text.rate(record.lr)}, seed {record.seed}"
    _say(console, f"trial {number}: {variant_of(record)}, {how}")
    for name, then in record.versions.items():
        if (now := versions().get(name)) != then:
            _say(console, f"{name} was {then} and is {now}")
    again = _again(record, console)
    for one, told in ((record, "recorded"), (again, "replayed")):
        why = f": {one.reason}" if one.reason else ""
        _say(console, f"{told}: {one.state} {text.score(one.score)}{why}")
    same = numbers(again) == numbers(record)
    _say(console, "The same to the last digit." if same else "Not the same.")
    return same


def _say(console: Console, told: str) -> None:
    """A line as it is: reasons and names may hold what rich takes for markup."""
    console.print(told, markup=False)


def _again(record: TrialRecord, console: Console) -> TrialRecord:
    """Another run of it, elsewhere."""
    import torch

    steps = {point.step: point for point in record.curve}

    def hear(point: Point) -> None:
        old = steps.get(point.step)
        then = text.score(old.score) if old else text.NONE
        _say(console, f"step {point.step:>6}: recorded {then}, replayed {text.score(point.score)}")
        if record.state == "pruned" and point.step >= max(steps):
            raise Pruned(record.reason or "")

    threads = torch.get_num_threads()
    if record.threads:  # of each process
        torch.set_num_threads(record.threads * record.recipe.get("devices", 1))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            known = record.model_dump(include={"number", "variant", "lr", "seed", "recipe"})
            return run(TrialSpec(**known, folder=scratch, study="replay"), hear)
    finally:
        torch.set_num_threads(threads)


def numbers(record: TrialRecord) -> str:
    """All that was computed, but no times."""
    curve = [p.model_dump_json(exclude={"seconds"}) for p in record.curve]
    return record.model_dump_json(include={"state", "score", "metrics"}) + "".join(curve)

"""The ranking: trials as rows, distinct variants with their best trial, CSV and terminal."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from miras_search import finals, pareto
from miras_search.folder import ranked
from miras_search.record import write_whole
from miras_search.report import continual, reasons, sentences, text
from miras_search.report.differences import differences
from miras_search.variant import Variant, side_choices_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

    from miras_search.folder import StudyFolder
    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord

COLUMNS: tuple[str, ...] = (
    "rank",
    "trial",
    "digest",
    "variant",
    "memory",
    "bias",
    "retention",
    "algorithm",
    "state",
    "reason",
    "metric",
    "score",
    "test_score",
    "lr",
    "seed",
    "phase",
    "final_mean",
    "final_margin",
    "tied",
    "first_better",
    "first_better_low",
    "first_better_high",
    "width",
    "mlp",
    "parameters",
    "state_bytes",
    "flops_per_token",
    "fronts",
    "lowering",
    "tokens",
    "seconds",
    "compile_seconds",
    "started",
)
"""Keys of a row, in order; a number that is not known is None, or empty in CSV."""

SHOWN = 20
"""Variants in the terminal."""


@dataclass(frozen=True)
class Entry:
    """A distinct variant and all that was tried with it."""

    variant: Variant
    trials: tuple[TrialRecord, ...]
    """Best first, those that did not complete last."""

    @property
    def best(self) -> TrialRecord:
        """The best trial; without a score if none completed."""
        return self.trials[0]

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        """Trials with a score."""
        return tuple(record for record in self.trials if record.score is not None)

    @property
    def lrs(self) -> list[float]:
        """The learning rates that were tried, one for each trial."""
        return [record.lr for record in self.trials]

    @property
    def rates(self) -> int:
        """How many distinct ones."""
        return len({*self.lrs})

    @property
    def seconds(self) -> float:
        """Of all trials together."""
        return sum(record.seconds for record in self.trials)

    @property
    def size(self) -> dict[str, Any]:
        """Of the best trial's model, as `Size` has it."""
        return self.best.recipe["size"]

    def label(self, shared: Iterable[str] = ()) -> str:
        """The variant in words, without the side choices in `shared`."""
        return label(self.variant, shared)


def rows(records: Iterable[TrialRecord], recipe: Recipe) -> list[dict[str, Any]]:
    """One mapping of `COLUMNS` a trial: of the search, best first, then of the finals by number.

    Trials without a score and trials of the finals have no rank; how a finalist stands is in the
    rows of its own runs.
    """
    records = list(records)
    fronts = pareto.fronts((record for record in records if record.phase == "search"), recipe)
    searched = [
        _row(i, record, fronts=fronts.get(record.number))
        for i, record in enumerate(ranked(records, recipe), start=1)
    ]
    outcome = finals.standing(records, recipe)
    stands = {run.number: f for f in outcome.finalists for run in f.runs} if outcome else {}
    again = sorted((r for r in records if r.phase == "finals"), key=lambda r: r.number)
    return searched + [_row(None, record, stands.get(record.number)) for record in again]


def write_csv(folder: StudyFolder, records: Iterable[TrialRecord], recipe: Recipe) -> None:
    """Rewrite leaderboard.csv, whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(records, recipe))
    write_whole(folder.leaderboard_file, table.getvalue())


def best_per_variant(records: Iterable[TrialRecord], recipe: Recipe) -> list[Entry]:
    """Distinct variants by their best trial, best first; those that never completed last."""
    groups: dict[str, list[TrialRecord]] = {}
    for record in ranked(records, recipe):
        groups.setdefault(record.digest, []).append(record)
    return [Entry(variant_of(trials[0]), tuple(trials)) for trials in groups.values()]


def shared_choices(entries: Sequence[Entry]) -> dict[str, Any]:
    """Side choices that differ from their default and are the same wherever they mean something:
    said once."""
    told = {}
    for name, values in side_choices_of([entry.variant for entry in entries]).items():
        known = {value for value in values if value is not None}
        if len(known) == 1 and known != {Variant.model_fields[name].get_default()}:
            (told[name],) = known
    return told


def sizes_differ(entries: Sequence[Entry]) -> bool:
    """Whether variants have sizes of their own."""
    return any(entry.size != entries[0].size for entry in entries)


def score_on_test(record: TrialRecord) -> float | None:
    """The metric on the test set, which nothing was chosen by."""
    return record.metrics.get(f"test/{record.metric}")


def label(variant: Variant, shared: Iterable[str] = ()) -> str:
    """The variant in words, without the side choices in `shared`."""
    defaults = {name: Variant.model_fields[name].get_default() for name in shared}
    return str(variant.replace(**defaults))


def variant_of(record: TrialRecord) -> Variant:
    """The variant that was trained."""
    return _variant(json.dumps(record.variant))


# The leaderboard is rewritten after every trial: parse each variant once, not once a trial.
@lru_cache(maxsize=4096)
def _variant(plain: str) -> Variant:
    return Variant.from_dict(json.loads(plain))


def _row(
    rank: int | None,
    record: TrialRecord,
    finalist: finals.Finalist | None = None,
    fronts: Sequence[str] | None = None,
) -> dict[str, Any]:
    variant = variant_of(record)
    known = {
        "rank": None if record.score is None else rank,
        "trial": record.number,
        "variant": str(variant),
        **{
            axis: text.NONE if axis in variant.idle else str(choice)
            for axis, choice in variant.choices().items()
        },
        "reason": record.reason if record.score is not None else text.reason(record),
        "test_score": score_on_test(record),
        "final_mean": finalist.mean if finalist else None,
        "final_margin": finalist.margin if finalist else None,
        "tied": finalist.tied if finalist else None,
        "first_better": finalist.beaten.value if finalist else None,
        "first_better_low": finalist.beaten.low if finalist else None,
        "first_better_high": finalist.beaten.high if finalist else None,
        "width": record.recipe["size"]["width"],
        "mlp": record.recipe["size"]["mlp"],
        "fronts": None if fronts is None else " ".join(fronts),
        "seconds": round(record.seconds, 3),
        "compile_seconds": round(record.compile_seconds, 3),
    }
    return {name: known[name] if name in known else getattr(record, name) for name in COLUMNS}


def terminal(records: Sequence[TrialRecord], recipe: Recipe, console: Console) -> None:
    """Print distinct variants, what to hold their scores against, and what they do not show."""
    from rich.text import Text

    task = recipe.task
    entries = best_per_variant(records, recipe)
    shared = shared_choices(entries)
    lines = [f"Validation {task.metric} on {task.kind}, {text.better(recipe)}."]
    lines.append(f"A variant is {text.ORDER}.")
    for split in ("validation", "test"):
        if split == "validation" or task.levels(split) != task.levels("validation"):
            lines.append(f"Levels on {split}: {text.levels(task.levels(split))}.")
    if told := sentences.matched(entries, recipe):
        lines.append(f"All variants have {told}.")
    if shared:
        lines.append("All variants: " + ", ".join(f"{k}={v}" for k, v in shared.items()) + ".")
    console.print(Text("\n".join(lines)))
    outcome = finals.standing(records, recipe)
    if entries:
        console.print(variants_table(entries[:SHOWN], shared, console.width, outcome))
    if len(entries) > SHOWN:
        console.print(Text(f"{len(entries) - SHOWN} more variants are in leaderboard.csv."))
    told = [sentences.endings(records), *sentences.caveats(entries, recipe, outcome)]
    if foretelling := sentences.foretelling(records):
        told.append(foretelling)
    told += continual.lines(entries, recipe)
    if front := sentences.front(entries, recipe):
        told.append(front)
    console.print(Text("\n".join(told)))
    # Last what a reader came for, which is then in sight.
    told = []
    if outcome is not None:
        console.print(finals_table(outcome, shared, console.width))
        told += [*sentences.finals(outcome), *reasons.contrasts(outcome)]
    elif len(entries) > 1:
        told.append(sentences.verdict(records, outcome, recipe))
    if untold := reasons.untold(entries, outcome, recipe):
        told.append(untold)
    if made := differences(entries, recipe):
        told += [*reasons.directions(made, recipe), *reasons.differences(made)]
    elif len(entries) > 1:
        told.append(reasons.unjudged(entries))
    if told:
        console.print(Text("\n".join(told)))


def plain_table(
    named: str, numbers: Iterable[str], *, first: str | None = None, title: str | None = None
) -> Table:
    """A table without rows: perhaps a narrow column, then a wide one of names, then numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    if first is not None:
        table.add_column(first, justify="right", no_wrap=True)
    table.add_column(named, ratio=1, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def room(width: int, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """What a `plain_table` of `width` columns leaves for names beside all other cells."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    return max(10, width - 2 - sum(2 + own for own in widths))


def variants_table(
    entries: Sequence[Entry],
    shared: Iterable[str],
    width: int,
    outcome: finals.Standing | None = None,
) -> Table:
    """Distinct variants as rows, without the side choices in `shared`, on `width` columns; the
    first of the finals or, without any, of all is bold."""
    from rich.text import Text

    own = ("width", "mlp") if sizes_differ(entries) else ()
    numbers = ("score", "test", "lr", *own, "params", "state", "trials", "time")
    table, rows = plain_table("variant", numbers, first="#"), []
    for i, entry in enumerate(entries, start=1):
        best = entry.best
        cells = [
            str(i) if best.score is not None else text.NONE,
            text.score(best.score),
            text.score(score_on_test(best)),
            text.rate(best.lr) if best.score is not None else text.NONE,
            *(f"{entry.size[name]:.4g}" for name in own),
            text.short_count(best.parameters),
            text.memory(best.state_bytes),
            str(len(entry.trials)),
            f"{entry.seconds:.0f} s",
        ]
        rows.append(cells)
    left = room(width, ("#", *numbers), rows)
    first = outcome.first.variant.digest if outcome else entries[0].variant.digest
    for entry, (place, *cells) in zip(entries, rows, strict=True):
        words = (place, text.wrapped(entry.label(shared), left), *cells)
        leads = place != text.NONE and entry.variant.digest == first
        table.add_row(*map(Text, words), style="bold" if leads else "")
    return table


def finals_table(
    outcome: finals.Standing,
    shared: Iterable[str],
    width: int,
    found_by: Sequence[Sequence[str]] | None = None,
) -> Table:
    """The finalists, best mean first, and the studies that each is of, if there are several."""
    from rich.text import Text

    numbers = ("mean", "95 %", "P(first better)")
    table, rows = plain_table("variant", numbers, first="", title="Finals"), []
    if found_by is not None:
        table.add_column("study", overflow="fold")
    for i, finalist in enumerate(outcome.finalists):
        cells = [
            "first" if i == 0 else "tied" if finalist.tied else "",
            text.score(finalist.mean),
            text.interval(finalist.margin),
            text.chance(finalist.beaten) if i else text.NONE,
        ]
        rows.append(cells)
    left = room(width, ("", *numbers), rows)
    for i, (finalist, (place, *cells)) in enumerate(zip(outcome.finalists, rows, strict=True)):
        name = label(finalist.variant, shared)
        name += " (ablation)" if finalist.variant.digest in outcome.ablations else ""
        words = [place, text.wrapped(name, left), *cells]
        if found_by is not None:
            words.append("\n".join(found_by[i]))
        table.add_row(*map(Text, words), style="" if i else "bold")
    return table

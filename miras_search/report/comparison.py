"""What is said of several studies: in the terminal, or as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miras_search.compare import asked
from miras_search.report import reasons, sentences, text
from miras_search.report.leaderboard import SHOWN, Entry, finals_table, shared_choices, variant_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from miras_search.compare import Agreement, Compared, Comparison, Shared, Together


def terminal(found: Comparison, console: Console) -> None:
    """Print what was asked, finals judged as one, and how far the orders of variants agree."""
    from rich.text import Text

    console.print(_studies(found))
    console.print(Text(_differ(found)))
    for together in found.together:
        _print_together(together, console)
    console.print(Text("\n".join(map(_told, found.agreements))))
    if len(found.shared) > 1:
        console.print(_places(found.shared, found.studies, console.width))
        if len(found.shared) > SHOWN:
            console.print(Text(f"{len(found.shared) - SHOWN} more were tried by all."))
        console.print(
            Text(
                "A rank is by a variant's best score in the search, most often of one seed: "
                "neighbours may change places."
            )
        )


def plain(found: Comparison) -> dict[str, Any]:
    """All of it as JSON has it."""
    return {
        "studies": [
            {
                "study": study.name,
                **{key: asked(study.recipe, key) for key in found.differing},
                "metric": study.recipe.task.metric,
                "trials": len(study.records),
                "to_come": study.left,
                "variants": len(study.entries),
                "best": _best(study),
                "first_of_finals": _first(study),
            }
            for study in found.studies
        ],
        "together": [
            {
                "studies": together.names,
                "tied": together.standing.tied,
                "corrected": together.standing.corrected,
                "finalists": [
                    {
                        "variant": str(finalist.variant),
                        "digest": finalist.variant.digest,
                        "studies": studies,
                        "mean": finalist.mean,
                        "margin": finalist.margin,
                        "tied": finalist.tied,
                        "first_better": finalist.beaten._asdict(),
                    }
                    for finalist, studies in zip(
                        together.standing.finalists, together.found_by, strict=True
                    )
                ],
            }
            for together in found.together
        ],
        "agreements": [
            {
                "studies": agreement.names,
                "shared": agreement.shared,
                "rank_correlation": agreement.correlation and agreement.correlation._asdict(),
            }
            for agreement in found.agreements
        ],
        "shared": [
            {
                "variant": str(shared.entry.variant),
                "digest": shared.entry.variant.digest,
                "ranks": shared.ranks,
            }
            for shared in found.shared
        ],
    }


def _best(study: Compared) -> dict[str, Any] | None:
    if not study.entries:
        return None
    best = study.entries[0]
    return {"variant": str(best.variant), "score": best.best.score, "lr": best.best.lr}


def _first(study: Compared) -> dict[str, Any] | None:
    if study.standing is None:
        return None
    first = study.standing.first
    return {"variant": str(first.variant), "mean": first.mean, "margin": first.margin}


def _studies(found: Comparison) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("study", overflow="fold")
    for key in found.differing:
        table.add_column(key, justify="right", overflow="fold")
    for name in ("metric", "trials", "best score", "first of finals"):
        table.add_column(name, justify="right")
    for study in found.studies:
        best, first = _best(study), study.standing.first if study.standing else None
        mean = first and f"{text.score(first.mean)} {text.interval(first.margin)}"
        cells = [
            study.name,
            *(_value(asked(study.recipe, key)) for key in found.differing),
            study.recipe.task.metric,
            f"{len(study.records)}, {study.left} to come"
            if study.left
            else str(len(study.records)),
            text.score(best["score"] if best else None),
            mean or text.NONE,
        ]
        table.add_row(*map(Text, cells))
    return table


def _value(value: object) -> str:
    return text.NONE if value is None else str(value)


def _differ(found: Comparison) -> str:
    if found.differing:
        return (
            f"The recipes differ in {', '.join(found.differing)}: scores are compared where "
            "recipes are the same, elsewhere only ranks."
        )
    without = [study.name for study in found.studies if study.standing is None]
    if without:
        return (
            f"One recipe for all, but no finals that are over in {', '.join(without)}: how far "
            "their scores move from seed to seed is not known."
        )
    return "One recipe for all: their finals ran on the same seeds, and are judged as one."


def _print_together(together: Together, console: Console) -> None:
    from rich.text import Text

    standing = together.standing
    finalists = [f.runs[0] for f in standing.finalists]
    shared = shared_choices([Entry(variant_of(run), (run,)) for run in finalists])
    if shared:
        told = ", ".join(f"{k}={v}" for k, v in shared.items())
        console.print(Text(f"All finalists: {told}."))
    table = finals_table(standing, shared, console.width - 20, together.found_by)
    table.columns[1].no_wrap = True  # a variant is on lines already: studies give way
    console.print(table)
    console.print(Text("\n".join([*sentences.finals(standing), *reasons.contrasts(standing)])))


def _told(agreement: Agreement) -> str:
    """How far two studies agree, in one sentence."""
    a, b = agreement.names
    if agreement.shared == 0:
        return f"{a} and {b}: no variant completed in both."
    variants = text.many(agreement.shared, "variant")
    if agreement.correlation is None:
        return f"{a} and {b}: {variants} in both, too few or too equal to correlate their ranks."
    rho = text.chance(agreement.correlation)
    return f"{a} and {b}: rank correlation {rho} over {variants}."


def _places(shared: Sequence[Shared], studies: Sequence[Compared], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    common = shared_choices([one.entry for one in shared])
    title = f"Ranks of the {len(shared)} variants that all studies tried"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.add_column("variant", ratio=1, no_wrap=True)  # on lines already: studies give way
    for study in studies:
        table.add_column(Text(study.name), justify="right", overflow="fold")
    for one in shared[:SHOWN]:
        words = text.wrapped(one.entry.label(common), max(20, width - 20 * len(studies)))
        table.add_row(*map(Text, (words, *map(str, one.ranks))))
    return table

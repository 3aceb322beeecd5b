"""What variants cost before any is trained, as `plan` tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search import reach
from miras_search.plan import plan
from miras_search.report import text
from miras_search.report.leaderboard import Entry, label, plain_table, shared_choices

if TYPE_CHECKING:
    from rich.console import Console

    from miras_search.recipe import Recipe
    from miras_search.space import Space

SHOWN = 20
"""Variants; random ones of a space with more."""


def print_costs(space: Space, recipe: Recipe, console: Console) -> None:
    """Print parameters, state and work of variants, and how far they are from what they shall have
    alike; what is the same for all is said once."""
    from rich.text import Text

    task, match = recipe.task, recipe.match
    shown = reach.sample(space, recipe, SHOWN)
    sizes = [own.size for _, own in shown]
    plans = [
        plan(v, own.size, task.vocabulary, task.length, task.readout, own.lowering)
        for v, own in shown
    ]
    columns = {
        "parameters": [f"{p.parameters:,}" for p in plans],
        "state bytes": [f"{p.state_bytes:,}" for p in plans],
        "FLOPs/token": [f"{p.flops_per_token:,}" for p in plans],
        "lowering": [p.lowering for p in plans],
    }
    if match is not None:
        columns |= {
            "width": [str(size.width) for size in sizes],
            "mlp": [f"{size.mlp:g}" for size in sizes],
            "off": [text.share(match.deviation_of(p)) for p in plans],
        }
    everywhere = shared_choices([Entry(variant, ()) for variant, _ in shown])
    alike = {name: told[0] for name, told in columns.items() if len({*told}) == 1 < len(told)}
    columns = {name: told for name, told in columns.items() if name not in alike}
    if told := ", ".join(f"{k}={v}" for k, v in (everywhere | alike).items()):
        console.print(Text(f"All variants: {told}."))
    table = plain_table("variant", [*columns])
    # Each column has a space on either side.
    free = console.width - 4 - sum(2 + max(map(len, [k, *told])) for k, told in columns.items())
    for (variant, _), *cells in zip(shown, *columns.values(), strict=True):
        name = text.wrapped(label(variant, everywhere), max(20, free))
        table.add_row(*map(Text, [name, *cells]))
    console.print(table)
    if match is not None:
        console.print(Text(f"every variant has {match}: off is by how much"))
    most, least = (f(p.parameters for p in plans) for f in (max, min))
    if most > 1.01 * least and (match is None or match.quantity != "params"):
        told = f"parameters are not matched: the largest variant has {most / least - 1:.0%} more"
        console.print(Text(told if match else f"{told}; match.params=N gives all as many"))

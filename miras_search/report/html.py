"""One self-contained page about a study: no network, nothing to install, and one small script that
sorts its tables and tells what a mark of a figure says."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import defaultdict
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from miras_search import finals, reach
from miras_search.record import write_whole
from miras_search.report import (
    continual,
    equations,
    figures,
    interactions,
    reasons,
    sentences,
    text,
)
from miras_search.report.differences import Differences, differences
from miras_search.report.failures import failures
from miras_search.report.leaderboard import (
    Entry,
    best_per_variant,
    label,
    rows,
    score_on_test,
    shared_choices,
    sizes_differ,
    variant_of,
)
from miras_search.study import COUNTED, left
from miras_search.tasks.base import METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment

    from miras_search.component import Component
    from miras_search.folder import StudyFolder
    from miras_search.recipe import Recipe
    from miras_search.space import Space
    from miras_search.variant import Variant

LEADING = 10
"""Variants whose equations are shown."""
REASONS = 20
"""Rows of trials that did not complete."""


def write_report(folder: StudyFolder) -> Path:
    """Write report.html and figures/ from what lies in the folder, and say where the page is.

    Raises:
        UserError: the folder's space or recipe cannot be read.
    """
    records, recipe = folder.records(), folder.recipe
    entries = best_per_variant(records, recipe)
    outcome = finals.standing(records, recipe)
    best = finals.winner(records, recipe)
    seeds = sorted({r.seed for r in records if r.phase == "search"}) or [recipe.seed]
    winner = Entry(variant_of(best), (best,)) if best else None
    made = differences(entries, recipe)
    intervals = figures.intervals(outcome, entries, recipe) if outcome else None
    why = _why(made, outcome, recipe)
    effects = interactions.draw(made, recipe) if made else []
    pictures = figures.draw(entries, recipe, outcome)
    shown = [*pictures, *effects, *([intervals] if intervals else [])]
    for picture in shown:
        picture.write(folder.figures)
    for name in {*figures.NAMES} - {picture.name for picture in shown}:
        # What more trials no longer show must not lie there as if they did.
        for kind in ("svg", "csv"):
            (folder.figures / f"{name}.{kind}").unlink(missing_ok=True)
    scripts = (files("miras_search.report").joinpath(name) for name in ("sort.js", "hover.js"))
    script = "\n".join(script.read_text(encoding="utf-8") for script in scripts)
    page = (
        _environment()
        .get_template("template.html")
        .render(
            name=folder.identity["name"],
            recipe=recipe,
            task=recipe.task,
            metric=recipe.task.metric.replace("_", " "),
            meaning=METRICS[recipe.task.metric],
            better=text.better(recipe),
            records=records,
            completed=sentences.completed(records, left(folder.space, recipe, records)),
            entries=entries,
            shared=shared_choices(entries),
            sized=sizes_differ(entries),
            winner=winner,
            first=winner.best.digest if winner else None,
            equations=_update(winner.variant) if winner else [],
            leading=[
                (entry, _equations(entry.variant))
                for entry in entries[:LEADING]
                if entry.best.score is not None
            ],
            finalists={f.variant.digest: f for f in outcome.finalists} if outcome else {},
            heading=sentences.heading(entries, outcome),
            verdict=sentences.verdict(records, outcome, recipe),
            order=text.ORDER,
            choices=_choices(winner.variant) if winner else [],
            held=partial(_held, winner, outcome),
            caveats=sentences.caveats(entries, recipe, outcome),
            outcome=outcome,
            found=sentences.finals(outcome)[1:] if outcome else [],
            contrasts=reasons.contrasts(outcome) if outcome else [],
            untold=reasons.untold(entries, outcome, recipe),
            intervals=intervals,
            matched=sentences.matched(entries, recipe),
            front=sentences.front(entries, recipe),
            levels=_levels(recipe),
            further=[name for name in recipe.task.evaluations if not continual.cell(name)],
            continual=continual.shown(entries, recipe),
            differences=made,
            why=why,
            effects=effects,
            unjudged=reasons.unjudged(entries),
            figures=pictures,
            foretelling=sentences.foretelling(records),
            trials=rows(records, recipe),
            failures=failures(records),
            reasons=REASONS,
            asked=_asked(folder.space, recipe, sentences.matched(entries, recipe), seeds),
            seeds=seeds,
            space_yaml=folder.space_file.read_text(encoding="utf-8"),
            recipe_yaml=folder.recipe_file.read_text(encoding="utf-8"),
            versions=_distinct(record.versions for record in records),
            devices=sorted({record.device for record in records} - {""}),
            began=min((record.started for record in records if record.started), default="")[:16],
            seconds=sum(record.seconds for record in records),
            compiling=sum(record.compile_seconds for record in records),
            command=_command(folder),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    write_whole(folder.report_file, page)
    return folder.report_file


def _why(made: Differences | None, outcome: finals.Standing | None, recipe: Recipe) -> list[str]:
    """What is shown of finalists that differ in one choice, and over all variants, or that nothing
    is shown there."""
    told = reasons.shown(outcome) if outcome else []
    if made is None:
        return told
    return told + (reasons.directions(made, recipe) or reasons.differences(made)[:1])


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("miras_search.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (text.score, text.rate, text.count, text.memory, text.duration, text.bound)
    filters += (text.chance, text.percent, text.interval, text.held_out, text.few)
    environment.filters |= {made.__name__: made for made in filters}
    environment.filters |= {"equation": equations.html, "on_test": score_on_test}
    environment.filters |= {"label": label}
    environment.filters |= {"summary": continual.told, "differing": reasons.differences}
    return environment


def _update(variant: Variant) -> list[str]:
    """What the memory does at every token, line by line."""
    told = variant.equations()
    return told.get("algorithm", told["memory"]).split(";  ")


def _equations(variant: Variant) -> list[str]:
    """The memory, what it minimises and its update, line by line."""
    told = variant.equations()
    learned = [told["memory"], told["bias"]] if "bias" in told else []
    return learned + _update(variant)


def _choices(variant: Variant) -> list[tuple[str, Component, str, str]]:
    """Of each axis the choice, what it does and its equation."""
    equations = variant.equations()
    return [
        (
            axis,
            choice,
            (choice.__doc__ or "").splitlines()[0].replace("`", ""),
            equations.get(axis, text.NONE),
        )
        for axis, choice in variant.shown_choices().items()
        if axis not in variant.idle
    ]


def _held(winner: Entry | None, outcome: finals.Standing | None, metric: str) -> float | None:
    """A metric of the first: its mean over the finals or, without any, that of its trial."""
    if outcome is not None:
        return outcome.first.mean_of(metric)
    return None if winner is None else winner.best.metrics.get(metric)


def _levels(recipe: Recipe) -> list[dict[str, Any]]:
    """Chance, plateau and ceiling of every held-out set; of the cells of a matrix, once a row."""
    return [
        {"split": split, **vars(recipe.task.levels(split))}
        for split in recipe.task.splits
        if split != "train" and (continual.cell(split) or (0, 1))[1] == 1
    ]


def _asked(space: Space, recipe: Recipe, matched: str | None, seeds: list[int]) -> dict[str, str]:
    """What the study set out to do, in a few facts."""
    task, size = recipe.task, recipe.size
    if space.infinite is not None:
        variants = f"not countable: {space.infinite}"
    elif space.combinations <= COUNTED:
        variants = f"{space.size:,} distinct and feasible, of {space.combinations:,} combinations"
    else:
        variants = f"{space.combinations:,} combinations"
    if short := reach.left_out(space, recipe):
        variants += f"; {short} and were left out"
    training = f"{recipe.steps:,} steps of {recipe.batch} x "
    training += " or ".join(map(str, task.train_lengths)) + " tokens"
    if len(task.train_lengths) == 1:
        training += f": {recipe.steps * recipe.batch * task.length:,} tokens a trial"
    layers = text.many(size.layers, "layer")
    swiglu = f"SwiGLU of {size.mlp:g} x width" if size.mlp else "no SwiGLU"
    if matched is None:
        model = f"width {size.width}, {layers}, {swiglu}"
    elif recipe.keeps_width:
        model = f"width {size.width}, {layers}, a SwiGLU as wide as it takes for {matched}"
    else:
        model = f"{layers}, as wide as it takes for {matched}"
    begun = f", begun with the best of {', '.join(recipe.warm_start)}" if recipe.warm_start else ""
    return {
        "Space": f"{space.name}: {variants}",
        "Task": f"{task}: {task.__doc__ or ''}".splitlines()[0],
        "Trials": f"{'every point' if recipe.trials is None else f'{recipe.trials:,}'}, "
        f"chosen by {recipe.sampler}, {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{text.listed(map(str, seeds))}{begun}",
        "Finals": _runs_again(recipe),
        "Training": training,
        "Learning rate": str(recipe.lr.plain()),
        "Model": model,
    }


def _runs_again(recipe: Recipe) -> str:
    """Who runs again, and how often."""
    if not recipe.finalists:
        return "none"
    more = (
        ", and those that differ from the first of them in one choice" if recipe.ablations else ""
    )
    return f"the first {recipe.finalists}{more}, on {text.many(recipe.seeds, 'new seed')} each"


def _distinct(found: Any) -> dict[str, str]:
    """Versions by package; several where trials differ."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    for versions in found:
        for package, version in versions.items():
            seen[package][version] = None
    return {package: ", ".join(versions) for package, versions in seen.items()}


def _command(folder: StudyFolder) -> str:
    """The sweep again, in a folder of its own."""
    path = folder.path if folder.path.name.strip(".") else folder.path.resolve()
    new = path.with_name(f"{path.name}-again")
    words = ["miras-search", "sweep", str(folder.space_file), str(folder.recipe_file), f"out={new}"]
    return shlex.join(words)

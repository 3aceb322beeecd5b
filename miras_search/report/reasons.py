"""What is said of why the first is first, in sentences: what made a difference over all variants,
and what finalists show that differ in one choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_search.report import text
from miras_search.report.sentences import at_one_look
from miras_search.variant import Variant, side_choices_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miras_search.finals import Contrast, Standing
    from miras_search.recipe import Recipe
    from miras_search.report.differences import Company, Differences
    from miras_search.report.leaderboard import Entry


def unjudged(entries: Sequence[Entry]) -> str:
    """Why nothing is said of what made a difference."""
    from miras_search.report.differences import LEAST

    done = sum(entry.best.score is not None for entry in entries)
    return (
        f"Effects of axes are not judged: that takes {LEAST} variants with a score whose kinds "
        f"others have too, and there are {done} in all."
    )


def differences(found: Differences) -> list[str]:
    """What is shown to have made a difference, and what these words are worth."""
    judged = f"Of {len(found.judged)} axes, pairs of axes and settings"
    if not found.judged:
        return [
            "Of no axis, pair of axes or setting do the trials tell whether it made a difference.",
            *_left_out(found),
        ]
    if not found.shown:
        told = f"{judged}, none is shown to make a difference over {found.variants} variants."
        return [told, _counted(found), *_left_out(found)]
    named = ", ".join(
        f"{effect.name} ({text.percent(effect.share or 0.0)})" for effect in found.shown
    )
    return [
        f"{judged}, these made a difference over {found.variants} variants: {named}.",
        f"Shown is what has a q-value of at most {found.least:.0%}; in brackets the share of the "
        "variance that others leave, of these variants alone. \u00b1 is an interval of 95 %, for "
        "all that a sentence compares together; a gap that is told since it is shown is too large "
        "on average.",
        _counted(found),
        *_left_out(found),
    ]


def _counted(found: Differences) -> str:
    """Which score of a variant is meant."""
    seeds = found.seeds
    if found.averaged:
        of = f"with each of {len(seeds)} seeds, on average."
    elif len(seeds) > 1:
        of = f"of {len(seeds)} seeds."
    else:
        of = (
            f"of seed {min(seeds)} alone: another may show other differences. The same sweep with "
            "another seed, and miras-search merge, have them judged by both."
        )
    return f"A variant counts by its best trial of the search, {of}"


def _left_out(found: Differences) -> list[str]:
    """Of what and of whom nothing is told, and why."""
    told = []
    for axis, kinds in found.fallen.items():
        counts = text.listed(f"{kind} in {n} of {of}" for kind, (n, of) in kinds.items())
        those = "kinds" if axis in found.axes else "values"
        told.append(
            f"Of {axis} nothing is told: some of its {those} have no score more often than others "
            f"({counts} variants), and those that have one may be the lucky ones."
        )
    if found.together:
        some = [f"{e.name} (with {text.listed(e.goes_with)})" for e in found.together[:3]]
        more = len(found.together) - len(some)
        named = text.listed([*some, *([f"{more} more"] if more else [])])
        told.append(f"Of some it cannot be told what they do, as they go with others: {named}.")
    if found.alone:
        named = text.listed(str(variant) for variant in found.alone[:3])
        many = named if len(found.alone) <= 3 else f"{len(found.alone)} variants"
        told.append(f"Left out, with a kind that no other variant has: {many}.")
    return told


def directions(found: Differences, recipe: Recipe) -> list[str]:
    """Which kinds are ahead on each axis that made a difference, which values of each setting, and
    which kinds in which company where a pair did of which one axis has two; a sentence for each."""
    told = []
    for effect in found.shown:
        if effect.name in found.companies:
            told.append(_company(effect.name, found.companies[effect.name], recipe))
        elif effect.name in found.against_mean:
            told.append(_direction(effect.name, found, recipe))
    return told


def _direction(axis: str, found: Differences, recipe: Recipe) -> str:
    kinds = found.against_mean[axis]
    known = {kind: value for kind, value in kinds.items() if value is not None}
    kind, equal = "kinds", "all other axes equal"
    if axis not in found.axes:
        known = {f"{axis}={value}": mean for value, mean in known.items()}
        kind, equal = "values", "all else equal"
    if not known:
        return f"{axis} made a difference; its {kind} were never tried with {equal}."
    (best, high), *_, (last, low) = known.items()
    gap, margin = abs(high - low), found.margins[axis]
    by = f"{_with_interval(gap, margin)} {recipe.task.metric.replace('_', ' ')}"
    those = (
        f"its {kind}" if len(known) == len(kinds) else f"those of its {kind} that can be compared"
    )
    if len(known) == 2 or (margin is not None and gap > margin):
        told = f"{best} is ahead of {last} by {by} on average, {equal}"
        told += f", the first and the last of {those}" if len(kinds) > 2 else ""
    else:
        told = f"which of its {kind} differ cannot be told; {best} and {last}, the first and the "
        told += f"last of {those}, are {by} apart on average, {equal}"
    pairs = [e.name for e in found.shown if axis in e.name.split(" x ") and e.name != axis]
    also = f"; not alike in all company, as {text.listed(pairs)} tells" if pairs else ""
    return f"{axis} made a difference: {told}{also}."


def _with_interval(gap: float, margin: float | None) -> str:
    return text.score(gap) if margin is None else f"{text.score(gap)} {text.interval(margin)}"


def _company(pair: str, company: Company, recipe: Recipe) -> str:
    metric, other = recipe.task.metric.replace("_", " "), company.other
    told = []
    for kind, gain in company.gains.items():
        by = _with_interval(abs(gain), company.margins[kind])
        if text.score(abs(gain)) == text.score(0.0):
            words = "level" if told else f"level with {other}"
        elif told:
            words = f"{'ahead' if gain > 0 else 'behind'} by {by}"
        else:
            words = f"{'ahead of' if gain > 0 else 'behind'} {other} by {by} {metric} on average"
        told.append(f"{words} with {kind}")
    tested = (
        "which of these gains differ was not tested"
        if len(told) > 2
        else "that these two gains differ is what was tested"
    )
    found = f"{company.axis} {company.better} is {text.listed(told)}"
    return f"{pair} made a difference: {found}; {tested}."


def contrasts(outcome: Standing) -> list[str]:
    """What the finals show of single choices, a sentence for each pair of finalists that differ in
    one alone, and last what these sentences are worth."""
    from miras_search.stats.seeds import LEVEL

    if not outcome.contrasts:
        return []
    return [
        *(_contrast(contrast, outcome) for contrast in outcome.contrasts),
        "These are finalists that differ in one choice, each at the best of the rates tried; the "
        f"intervals are of {LEVEL:.0%} for all pairs of finalists together, as far as they vary "
        f"alike from seed to seed{at_one_look(outcome)}.",
    ]


def shown(outcome: Standing) -> list[str]:
    """Of these sentences, those of choices that are shown to make a difference."""
    return [_contrast(contrast, outcome) for contrast in outcome.contrasts if contrast.shown]


def _contrast(found: Contrast, outcome: Standing) -> str:
    one, other = found.better.variant, found.worse.variant
    every = side_choices_of([finalist.variant for finalist in outcome.finalists])
    differing = [name for name, values in every.items() if len({*values} - {None}) > 1]
    told = one.shown_choices() | {name: getattr(one, name) for name in differing}
    beside = ", ".join(f"{name}={told[name]}" for name in told if name != found.choice)
    name, metric = found.choice, found.better.runs[0].metric.replace("_", " ")
    if not found.gap:
        return (
            f"With {beside}: {name}={getattr(one, name)} and {name}={getattr(other, name)} have "
            f"the same mean {metric}."
        )
    verb = "is better than" if found.shown else "is ahead of"
    gap = text.score(found.gap)
    if found.margin is not None:
        gap += f" {text.interval(found.margin)}"
    told = f"With {beside}: {name}={getattr(one, name)} {verb} {name}={getattr(other, name)} by "
    told += f"{gap} in mean {metric}"
    if found.shown:
        return f"{told}."
    if found.margin is None:
        return f"{told} in every run, so that no interval can be told."
    return f"{told}, which does not tell them apart."


def untold(entries: Sequence[Entry], outcome: Standing | None, recipe: Recipe) -> str | None:
    """Which choices of the first the finals say nothing of, though the search has variants that
    differ in them alone; None where there are none."""
    if outcome is None:
        return None
    first = outcome.first.variant
    scored = [entry.variant for entry in entries if entry.best.score is not None]
    ran = [finalist.variant for finalist in outcome.finalists]
    ran += [Variant.from_dict(run.variant) for run in outcome.fallen]
    known = {*map(first.single_difference, ran)}
    missing = {name for other in scored if (name := first.single_difference(other))} - known
    if not missing:
        return None
    named = text.listed(name for name in Variant.model_fields if name in missing)
    does = "does" if len(missing) == 1 else "do"
    more = "the ablations differ in one choice from another finalist, which an ablation has passed."
    if not recipe.ablations:
        more = (
            "miras-search resume STUDY ablations=true runs variants that differ from the first in "
            "one choice."
        )
    return f"What {named} {does} for the first is not shown: {more}"

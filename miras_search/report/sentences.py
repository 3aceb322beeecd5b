"""What is said of a study in sentences: what came of its trials, who is first and how sure that
is, and what the ranking does not show."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from miras_search import pareto
from miras_search.finals import judged_by, over
from miras_search.report import text
from miras_search.report.failures import Failure, failures
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miras_search.finals import Standing
    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord
    from miras_search.report.leaderboard import Entry

ONE_RUN = "A score is of one run: who is just behind may belong on it, and the other way round."
"""What is to be known of a front."""


def completed(records: Sequence[TrialRecord], left: int = 0) -> str:
    """How many of the finished trials have a score, and how many of the search's are to come."""
    if not records:
        return "No trial has finished."
    complete = sum(record.score is not None for record in records)
    told = f"{complete} of {text.many(len(records), 'trial')} completed."
    return f"{told} {left} more of the search did not run yet." if left > 0 else told


def endings(records: Sequence[TrialRecord]) -> str:
    """How many trials completed, and how the others ended."""
    told = completed(records)
    by_state: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures(records):
        by_state[failure.state].append(failure)
    for state, found in by_state.items():
        number = sum(len(failure.numbers) for failure in found)
        more = f", and {text.many(len(found) - 1, 'more reason')}" if len(found) > 1 else ""
        told += f" {number} {'ran ' if state == 'out of memory' else ''}{state}: "
        told += f"{found[0].reason.rstrip('.')}{more}."
    return told


def foretelling(records: Sequence[TrialRecord]) -> str | None:
    """How well the scores during training rank what comes of it; None where too few trials tell."""
    from miras_search.pruning import rank_correlations

    # Runs of the finals are of few points that did well.
    done = [r for r in records if r.score is not None and r.phase == "search"]
    trials = [({p.step: p.score for p in r.curve}, r.score) for r in done]
    end = max((r.recipe["steps"] for r in done), default=0)
    found = {step: rho for step, rho in rank_correlations(trials).items() if step < end}
    if not found:
        return None
    of = f"Rank correlation of scores with the final one over {len(trials)} trials"
    if stopped := sum(r.state == "pruned" for r in records if r.phase == "search"):
        # What is left has the less to tell apart: an interval would be of these alone.
        told = ", ".join(f"{rho.value:.2f} at step {step}" for step, rho in found.items())
        left = f"{stopped} that {'was' if stopped == 1 else 'were'} stopped"
        return f"{of}: {told}. Without the {left} it is smaller than over all."
    told = ", ".join(f"{text.chance(rho)} at step {step}" for step, rho in found.items())
    return f"{of}, with 95 % intervals: {told}."


def matched(entries: Sequence[Entry], recipe: Recipe) -> str | None:
    """What every variant was given alike, and how far from it the trials are."""
    if recipe.match is None:
        return None
    found = [recipe.match.deviation_of(trial) for entry in entries for trial in entry.trials]
    known = [deviation for deviation in found if deviation is not None]
    told = f"{recipe.match}"
    return f"{told}; the largest deviation is {text.share(max(known, key=abs))}" if known else told


def front(entries: Sequence[Entry], recipe: Recipe) -> str | None:
    """Which variants are on the front that was sought, by rank; None where only the score was."""
    ranked = [entry.best for entry in entries if entry.best.score is not None]
    if len(recipe.objectives) == 1 or not ranked:
        return None
    is_on = pareto.front(pareto.losses(ranked, recipe, recipe.objectives))
    ranks = ", ".join(str(rank) for rank, on in enumerate(is_on, start=1) if on)
    named = text.listed(name.replace("_", " ") for name in recipe.objectives)
    told = f"On the front of {named}, by their best trials: {ranks}"
    told += f" (of {len(ranked)} variants, best score first)."
    return f"{told} {ONE_RUN}"


def heading(entries: Sequence[Entry], outcome: Standing | None) -> str:
    """What the first variant is to be called: first of those alone that ran again."""
    if outcome is not None and outcome.tied:
        return "No clear winner"
    if outcome is not None and len(outcome.finalists) > 1:
        return f"First of {len(outcome.finalists)} finalists"
    scored = sum(entry.best.score is not None for entry in entries)
    return "What leads" if scored > 1 else "What was trained"


def verdict(records: Sequence[TrialRecord], outcome: Standing | None, recipe: Recipe) -> str:
    """How sure it is who is first, in one sentence."""
    if outcome is None:
        done = {r.digest for r in records if r.phase == "search" and r.score is not None}
        if not done:
            return "No trial completed, so there is no ranking."
        if len(done) < 2:
            return "There is nothing to compare it with."
        if over(records, recipe):
            return "First in the search: no finalist completed on all seeds, to say how sure it is."
        if recipe.finalists:
            return (
                "First in the search: its finals are not over, to say how sure that is; where no "
                "sweep runs, miras-search resume STUDY goes on with them."
            )
        return (
            "First in the search, which does not show that it is better: "
            "miras-search resume STUDY finalists=3 seeds=3 runs the leading ones on new seeds."
        )
    return finals(outcome)[0]


def finals(outcome: Standing) -> list[str]:
    """What the finals show and what they do not, one sentence or two each; first the verdict."""
    from miras_search.stats.seeds import LEVEL, unseen

    others, seeds = len(outcome.finalists) - 1, len(outcome.first.runs)
    clear = others - outcome.tied
    behind = f", but {clear} {'is' if clear == 1 else 'are'} behind" if clear else ""
    if not others:
        told = ["One finalist was run to its end: nothing to compare it with."]
    elif not outcome.tied:
        told = [
            f"No other finalist is tied with the first on {seeds} new seeds; where all are alike, "
            f"this would be said of at most {outcome.looks * (1 - LEVEL):.0%} of studies."
            + (
                f" That is {1 - LEVEL:.0%} for each of the {outcome.looks} sizes that these finals "
                "had, at which somebody may have looked."
                if outcome.looks > 1
                else ""
            )
        ]
    else:
        which = f"{outcome.tied} of {others} other finalists" if others > 1 else "The other one"
        told = [
            f"{which} cannot be told from the first on {seeds} new seeds: "
            f"there is no clear winner{behind}."
        ]
    if outcome.others:
        told[0] += (
            f" {text.many(outcome.others, 'more variant')} with a score did not run again and may "
            "be as good, like any that was not tried."
        )
    if others:
        mean, corrected = text.score(outcome.first.mean), text.score(outcome.corrected)
        sure = "" if outcome.first.margin is None else f" {text.interval(outcome.first.margin)}"
        told.append(
            f"The mean of the first is {mean}{sure}, and flatters where others are close; an "
            "estimate without the luck of being chosen is "
            f"{'the same' if corrected == mean else corrected} "
            "(chosen on all seeds but one, scored on the one left out, on average), which is less "
            "sure than the mean."
        )
    if any(finalist.margin is None for finalist in outcome.finalists):
        told.append("Where all runs gave one score, neither interval nor winner can be told.")
    told.append(
        f"A variant that failed in none of {seeds} runs may still fail in up to "
        f"{unseen(seeds):.0%} of all (bound at {LEVEL:.0%}): the intervals know nothing of that."
    )
    if others:
        told.append(
            f"\u00b1 is the {LEVEL:.0%} interval of a mean, for all finalists together as far as "
            f"they vary alike from seed to seed{at_one_look(outcome)}. Who is tied is judged by "
            "the differences on each seed, which may vary less than scores do: intervals of two "
            "that are told apart may overlap. P is the chance that one run of the first is better "
            "than one of the other."
        )
    for record in outcome.fallen:
        where = f"{record.state} on seed {record.seed} (trial {record.number})"
        told.append(
            f"{Variant.from_dict(record.variant)} has no place in the finals: {where}: "
            f"{text.reason(record)}."
        )
    if outcome.unused:
        told.append(
            f"{text.many(outcome.unused, 'more run')} of the finals "
            f"{'has' if outcome.unused == 1 else 'have'} no part in this: on seeds that not all "
            "have, or of variants that led when the finals had another size."
        )
    return told


def at_one_look(outcome: Standing) -> str:
    """What intervals are worth where somebody may have looked at smaller finals."""
    if outcome.looks == 1:
        return ""
    return f", at one look: the {outcome.looks} sizes that these finals had are not allowed for"


def caveats(entries: Sequence[Entry], recipe: Recipe, outcome: Standing | None = None) -> list[str]:
    """What the ranking does not show, one sentence or two each."""
    done = [entry for entry in entries if entry.best.score is not None]
    if not done:
        return []
    seeds = sorted({record.seed for entry in done for record in entry.complete})
    alone = len(done) == 1 and len(done[0].complete) == 1
    told = [
        f"One run, of seed {seeds[0]}: how far its score moves from seed to seed is not known"
        + ("." if outcome is None else " but from its finals.")
        if alone
        else (f"One seed ({seeds[0]}): the" if len(seeds) == 1 else "The")
        + " ranking has no error bars. "
        + _from_seed_to_seed(done, outcome)
        + ", so a small difference is not evidence."
    ]
    best = done[0].best
    plateau = recipe.task.levels("validation").plateau
    sign = 1 if recipe.task.direction == "maximize" else -1
    if plateau is not None and best.score is not None and sign * (best.score - plateau) <= 0:
        told.append(
            f"No variant passed the plateau ({plateau:.4g}): none has learned the task yet, "
            "and their order may change when one does."
        )
    tied = sum(entry.best.score == best.score for entry in done)
    if tied > 1:
        told.append(f"The first {tied} are tied: their order is that of their trials.")
    if alone:
        return told
    tried = [len(entry.complete) for entry in done]
    chosen = "A score is the best of a variant's trials on the validation set, so it flatters; "
    uneven = f" Variants had {min(tried)} to {max(tried)} completed trials: more is an advantage."
    told.append(
        chosen
        + "the test score had no part in the choice."
        + (uneven if min(tried) < max(tried) else "")
    )
    if recipe.task.same_held_out and outcome is not None:
        told.append(
            "All seeds are scored on the same examples: the finals repeat what luck with these was "
            "in the search, and their intervals do not have it; the test set had no part in it."
        )
    told += _not_matched(done, recipe)
    return [*told, *_at_the_edge(done), *_elsewhere(done, recipe, outcome)]


def _from_seed_to_seed(done: Sequence[Entry], outcome: Standing | None) -> str:
    """What is known of how far scores move, of which several seeds in the search tell a little."""
    from statistics import median

    if outcome is not None:
        return "How far a score moves from seed to seed was measured for the finalists alone"
    moves = []
    for entry in done:
        best: dict[int, float] = {}
        for trial in entry.complete:
            best.setdefault(trial.seed, trial.score or 0.0)
        if len(best) > 1:
            moves.append(max(best.values()) - min(best.values()))
    if not moves:
        return "How far a score moves from seed to seed is not known"
    return (
        f"From seed to seed the best score moved by {text.score(median(moves))} in the median of "
        f"{text.many(len(moves), 'variant')}"
    )


def _not_matched(done: Sequence[Entry], recipe: Recipe) -> list[str]:
    """How far apart models are in what they were not given alike."""
    told = []
    for quantity, sizes, words in (
        (
            "params",
            [entry.best.parameters for entry in done if entry.best.parameters],
            "Parameters are not matched: the largest model has {} times as many as the smallest.",
        ),
        (
            "state",
            [entry.best.state_bytes for entry in done if entry.best.state_bytes],
            f"States are not matched: after {recipe.task.length:,} tokens the largest is {{}} "
            "times as large as the smallest.",
        ),
    ):
        alike = recipe.match is not None and recipe.match.quantity == quantity
        if sizes and max(sizes) >= 1.01 * min(sizes) and not alike:
            told.append(words.format(f"{max(sizes) / min(sizes):.2f}"))
    return told


def _at_the_edge(done: Sequence[Entry]) -> list[str]:
    """Whether most variants did best at the highest or the lowest rate that was tried."""
    rates = [record.lr for entry in done for record in entry.complete]
    told = []
    if len({*rates}) == 2:
        told.append(
            "Two learning rates were tried, each an edge: the best may lie beyond or between."
        )
    for edge, word in ((max(rates), "highest"), (min(rates), "lowest")):
        there = sum({edge} == _best_rates(entry) for entry in done)
        if there == len(done) == 1:
            told.append(
                f"The best learning rate, {text.rate(edge)}, is the {word} that was tried: what "
                "the variant can do may lie beyond it."
            )
        elif 2 * there > len(done):
            told.append(
                f"{there} of {len(done)} variants did best at the {word} learning rate tried, "
                f"{text.rate(edge)}: what they can do, and their order, may lie beyond it."
            )
    return told


def _best_rates(entry: Entry) -> set[float]:
    """The learning rates with the best score of a variant; none where one alone was tried."""
    best = {record.lr for record in entry.complete if record.score == entry.best.score}
    return best if len({record.lr for record in entry.complete}) > 1 else set()


def _elsewhere(done: Sequence[Entry], recipe: Recipe, outcome: Standing | None) -> list[str]:
    """Where another variant leads on the sets that decided nothing: means of the finals against
    each other, and single runs of the search."""
    from miras_search.report.leaderboard import label, shared_choices

    shared, told = shared_choices(done), []
    for split in recipe.task.at_lengths:
        metric = f"{split}/{recipe.task.metric}"
        over = outcome and _ahead_in_finals(outcome, recipe, metric)
        single = _ahead_in_search(done, recipe, metric, outcome)
        where = f"On {text.held_out(split)} another one leads"
        if over:
            variant, theirs, ours, worth = over
            told.append(
                f"{where} in the finals: {label(variant, shared)}, {text.score(theirs)} against "
                f"{text.score(ours)} of the first, {worth}."
            )
        if single and not (over and over[0].digest == single[0].digest):
            variant, theirs, ours = single
            told.append(
                f"{where} in the search, by one run each: {label(variant, shared)}, "
                f"{text.score(theirs)} against {text.score(ours)} of the first."
            )
    return told


def _ahead_in_search(
    done: Sequence[Entry], recipe: Recipe, metric: str, outcome: Standing | None
) -> tuple[Variant, float, float] | None:
    """Who is better by a metric of its best trial than the best trial of the first, and both."""
    sign = 1 if recipe.task.direction == "maximize" else -1
    first = outcome.first.variant if outcome else done[0].variant
    found = [(entry.variant, entry.best.metrics.get(metric)) for entry in done]
    known = [(variant, x) for variant, x in found if x is not None and math.isfinite(x)]
    ours = next((value for variant, value in known if variant.digest == first.digest), None)
    if ours is None:
        return None
    variant, value = max(known, key=lambda one: sign * one[1])
    return None if value == ours else (variant, value, ours)


def _ahead_in_finals(
    outcome: Standing, recipe: Recipe, metric: str
) -> tuple[Variant, float, float, str] | None:
    """Who has a better mean than the first of the finals, both means, and their worth."""
    again = judged_by(outcome, recipe, metric, among=len(recipe.task.at_lengths))
    if again is None or again.first.runs == outcome.first.runs:
        return None
    if not all(math.isfinite(finalist.mean) for finalist in again.finalists):
        return None
    (ours,) = (f for f in again.finalists if f.runs == outcome.first.runs)
    worth = "which does not tell them apart" if ours.tied else "which is behind it"
    return again.first.variant, again.first.mean, ours.mean, worth

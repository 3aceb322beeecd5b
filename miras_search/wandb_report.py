"""A study as a saved report on wandb, by wandb's own library for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miras_search import finals
from miras_search.errors import UserError
from miras_search.registry import CHOICES
from miras_search.report import reasons, sentences, text
from miras_search.report.differences import differences
from miras_search.report.leaderboard import (
    best_per_variant,
    label,
    shared_choices,
    variant_of,
)
from miras_search.wandb_log import PROJECT, SUMMARY, columns, run_id
from miras_search.wandb_sync import asking, connect, known

if TYPE_CHECKING:
    from miras_search.folder import StudyFolder

CURVES = ("score", "train_loss")


def save_report(folder: StudyFolder) -> str:
    """Save the report of a study whose runs are on wandb, or save it again; return its address.

    Raises:
        UserError: the library is not installed, nobody is logged in, no run of the study is on the
            server, or the server refuses.
    """
    try:
        import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]
    except ImportError:
        told = "wandb-report needs wandb-workspaces: pip install 'miras-search[wandb]'"
        raise UserError(told) from None
    api, study = connect(), folder.identity["id"]
    runs = known(api, study)
    if not runs:
        raise UserError(
            f"{folder.path}: none of its runs is on wandb: "
            f"upload them first with miras-search sync {folder.path}"
        )
    entity = next(iter(runs.values())).entity
    with asking():
        names = _tables(runs.get(run_id(study, SUMMARY)))
    report = wr.Report(  # pyright: ignore[reportPrivateImportUsage]
        project=PROJECT,
        entity=entity,
        title=study,
        description=_description(folder),
        width="fluid",
        blocks=_blocks(wr, folder, entity, names),
    )
    with asking():
        # The same report again, not another of the same name.
        for saved in api.reports(f"{entity}/{PROJECT}"):
            if saved.display_name == study:
                report.id = saved.id
        return report.save().url


def _description(folder: StudyFolder) -> str:
    """What was asked, who is first, how sure that is, and what the ranking does not show."""
    records, recipe = folder.records(), folder.recipe
    entries, outcome = best_per_variant(records, recipe), finals.standing(records, recipe)
    told = [f"Validation {recipe.task.metric} on {recipe.task.kind}, {text.better(recipe)}."]
    if best := finals.winner(records, recipe):
        first = label(variant_of(best), shared_choices(entries))
        told.append(f"{sentences.heading(entries, outcome)}. First: {first}.")
    told += sentences.finals(outcome) if outcome else [sentences.verdict(records, outcome, recipe)]
    if made := differences(entries, recipe):
        told += [*reasons.directions(made, recipe), *reasons.differences(made)]
    told += reasons.contrasts(outcome) if outcome else []
    return " ".join([*told, *sentences.caveats(entries, recipe, outcome)])


def _tables(summary: Any) -> list[str]:
    """Names of the tables that a study's summary run has on the server."""
    told = {} if summary is None else summary.summary_metrics
    kinds = {name: x.get("_type") for name, x in told.items() if isinstance(x, dict)}
    return [name for name, kind in kinds.items() if kind == "table-file"]


def _blocks(wr: Any, folder: StudyFolder, entity: str, names: list[str]) -> list[Any]:
    """Panels over the runs of trials, and below them the tables of the summary run."""

    def runs(job: str, also: str = "") -> Any:
        only = f"Metric('Group') = '{folder.identity['id']}' and Metric('JobType') = '{job}'{also}"
        return wr.Runset(entity=entity, project=PROJECT, name=job, filters=only)

    varied = _varied(folder)
    judged = differences(best_per_variant(folder.records(), folder.recipe), folder.recipe)
    score = wr.SummaryMetric("score")
    coordinates = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in varied]
    coordinates += [
        wr.ParallelCoordinatesPlotColumn(wr.Config("lr"), log=True),
        wr.ParallelCoordinatesPlotColumn(score),
    ]
    panels: list[Any] = [
        wr.ParallelCoordinatesPlot(columns=coordinates, title="Choices and score"),
        *([wr.ParameterImportancePlot(with_respect_to="score")] if judged and judged.shown else []),
        *(
            wr.LinePlot(
                title=f"{curve} by {name}",
                x="Step",
                y=[curve],
                groupby=wr.Config(name),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            )
            for name in varied
            for curve in CURVES
        ),
    ]
    tables = [wr.WeavePanelSummaryTable(table_name=name) for name in names]
    for panel in (panels[0], *tables):
        panel.layout = wr.Layout(w=24, h=10)
    return [
        wr.H1("Trials of the search"),
        wr.P(
            "Runs in a group differ in their other choices and learning rates as well: what is "
            "shown is a hint, not an effect. A band goes from the least to the largest."
        ),
        wr.PanelGrid(runsets=[runs("trial", " and Config('phase') = 'search'")], panels=panels),
        *(
            [wr.H1("Tables"), wr.PanelGrid(runsets=[runs("summary")], panels=tables)]
            if tables
            else []
        ),
        wr.H1("Space"),
        wr.CodeBlock(code=folder.space_file.read_text(encoding="utf-8"), language="yaml"),
    ]


def _varied(folder: StudyFolder) -> list[str]:
    """The choices, of the four axes and the macro architecture, that differ between trials to which
    they mean something."""
    found = [columns(variant_of(record)) for record in folder.records()]
    return [name for name in CHOICES if len({own[name] for own in found} - {text.NONE}) > 1]

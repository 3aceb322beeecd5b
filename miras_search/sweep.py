"""A sweep from beginning to end: check, run, and leave every result in the study's folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from miras_search import reach, wandb_log
from miras_search.errors import UserError
from miras_search.executor import check_cluster, cores, gpus, set_up_ray, trials_at_once
from miras_search.folder import StudyFolder
from miras_search.report import text
from miras_search.report.differences import differences
from miras_search.report.html import write_report
from miras_search.report.leaderboard import best_per_variant, terminal
from miras_search.study import Study
from miras_search.view import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from miras_search.recipe import Recipe
    from miras_search.space import Space


def sweep(space: Space, recipe: Recipe, console: Console) -> StudyFolder:
    """Run or resume the study of a space and a recipe; return its folder.

    Raises:
        UserError: it cannot be run; nothing was written.
        KeyboardInterrupt: it was stopped; what had finished is kept and reported.
    """
    preflight(recipe)
    study = Study.begin(space, recipe)
    with study:
        told = study.told_of_sources()
        if short := reach.left_out(space, recipe):
            told.append(f"{short} and are left out: miras-search plan says why")
        for line in told:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        try:
            _execute(study, console)
        except OSError:  # nothing more can be written
            raise
        except BaseException:
            _conclude(study, console)  # an interrupted sweep is reported as far as it came
            raise
        _conclude(study, console)
    return study.folder


def preflight(recipe: Recipe) -> None:
    """Look at the cluster and the data, so that what is missing is told before anything is written.

    Raises:
        UserError: something is.
    """
    if recipe.address is not None:
        check_cluster(recipe.address)
        set_up_ray(recipe.address)
        from miras_search.executor import ray

        ray.check(recipe)
    elif recipe.accelerator == "gpu" or recipe.devices > 1:
        cards = gpus(recipe)
        if recipe.accelerator == "gpu" and not cards:
            raise UserError("accelerator: gpu, but torch finds none on this machine")
        found, kind = (cards, "GPU") if cards else (cores(), "CPU")
        if found < recipe.devices:
            has = text.many(found, kind)
            raise UserError(f"devices: {recipe.devices}, but this machine has {has}")
    recipe.check_data()


def _execute(study: Study, console: Console) -> None:
    recipe = study.recipe
    with Progress(study.total, study.records, recipe, console) as view:
        if recipe.executor == "ray":
            set_up_ray(recipe.address)
            from miras_search.executor import ray

            ray.execute(study, recipe.workers, view)
        else:
            from miras_search.executor import local

            local.execute(study, trials_at_once(recipe), view)


def _conclude(study: Study, console: Console) -> None:
    folder, recipe = study.folder, study.recipe
    if study.unfound:
        trials = text.many(study.unfound, "trial")
        told = (
            f"The search ended {trials} early: no point was found that is new and meets every rule"
        )
        console.print(told, soft_wrap=True, markup=False, highlight=False)
    study.publish()  # what an interrupted sweep was told last
    terminal(study.records, recipe, console)
    write_report(folder)
    found = differences(best_per_variant(study.records, recipe), recipe)
    further = {"effects": [asdict(effect) for effect in found.judged]} if found else {}
    wandb_log.summary_run(folder, recipe, study.records, further)
    told = f"Everything is in {folder.path}: open {folder.report_file}"
    console.print(told, soft_wrap=True, markup=False, highlight=False)

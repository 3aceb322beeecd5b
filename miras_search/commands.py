"""The commands: each is a few lines over the package, and what its --help tells."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from miras_search.errors import UserError, dotted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel
    from rich.console import Console

    from miras_search.recipe import Recipe
    from miras_search.space import Space
    from miras_search.variant import Variant

    Model = TypeVar("Model", bound=BaseModel)

ARGUMENTS = {
    "space": "YAML file of a space, or the name of a shipped one, such as core",
    "recipe": "YAML file of a recipe, or the name of a shipped one, such as bytes",
    "variant": "YAML file of one variant, such as best.yaml of a study, or the name of a "
    "published one, such as yaad",
    "study": "folder of a study",
    "folders": "folders of two or more studies",
    "studies": "folders of finished studies of one space, such as one a seed, and out=FILE.parquet",
    "parts": "folders of two or more studies of one space and one recipe, and out=FOLDER",
    "table": "Parquet file of trials, or the name of a shipped one",
    "replays": "key=value: methods=[tpe, gp/halving], replays=1000, budget=0.25, out=FOLDER",
    "pace": "every=SECONDS from one look to the next; 1 unless given",
    "trial": "number of a trial",
    "checkpoint": "folder of a trial with weights, such as runs/mine/best",
    "target": "a new folder",
    "size": "key=value of the model, such as width=128, layers=4, mlp=0",
    "what": "axes (the default), tasks or published",
    "overrides": "key=value that changes a key of either file, such as steps=100 or chunk=64",
}
"""What the arguments of commands are."""

MANY = {
    **dict.fromkeys(("overrides", "size", "replays", "pace"), "key=value"),
    **dict.fromkeys(("studies", "folders", "parts"), "STUDY"),
}
"""Arguments of any number, and what one of them is."""

DIGITS = 9
"""Of the number of a trial, at most."""
SHOWN = 20
"""Variants, and reasons, that `plan` prints."""


def unread() -> None:
    """Nobody reads what is printed: what follows goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console(**how: Any) -> Console:
    """What tables are printed on."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            unread()  # and go on: rich would end the command here, as if it had failed

    return Ours(**how)


def _sweep(options: Any) -> int:
    from miras_search.recipe import load_pair

    return _run(*load_pair(options.space, options.recipe, options.overrides))


def _train(options: Any) -> int:
    from miras_search.nodes import Fixed
    from miras_search.recipe import load_pair

    one = ["trials=1", "workers=1", "warm_start=[]"]
    how = ["finalists=0", *options.overrides, *one]
    space, recipe = load_pair(options.variant, options.recipe, how)
    _only(space, options.variant)
    if not isinstance(recipe.lr, Fixed):
        raise UserError("train takes one learning rate: add one, such as lr=3e-3")
    return _run(space, recipe)


def _resume(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.recipe import load_pair

    folder = StudyFolder.existing(options.study)
    here = [*options.overrides, f"out={json.dumps(str(folder.path))}"]
    return _run(*load_pair(folder.space_file, folder.recipe_file, here))


def _run(space: Space, recipe: Recipe) -> int:
    from miras_search.sweep import sweep

    records = sweep(space, recipe, _console()).records()
    return 0 if any(record.score is not None for record in records) else 1


def _compare(options: Any) -> int:
    from miras_search.compare import compare
    from miras_search.report import comparison

    found = compare(options.folders)
    if options.json:
        print(json.dumps(comparison.plain(found), indent=2))
    else:
        comparison.terminal(found, _console())
    return 0


def _export(options: Any) -> int:
    from miras_search.export import export

    folder = export(options.checkpoint, options.target)
    print(f"{folder}: a model that miras_search.load reads; its card is {folder / 'README.md'}")
    return 0


def _report(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.report.html import write_report
    from miras_search.report.leaderboard import terminal, write_csv

    folder = StudyFolder.existing(options.study)
    records, recipe = folder.records(), folder.recipe
    write_csv(folder, records, recipe)
    page = write_report(folder)
    terminal(records, recipe, _console())
    print(page)
    return 0


def _watch(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.watch import Settings, watch

    watch(StudyFolder.existing(options.study), _settings(Settings, options.pace), _console())
    return 0


def _sync(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.report import text
    from miras_search.wandb_sync import sync

    done = sync(StudyFolder.existing(options.study))
    uploaded = text.many(done.uploaded, "run")
    print(f"{uploaded} uploaded; {done.there} were there and are as they were")
    for run in done.unfinished:
        print(f"{run}: wandb does not have it to its end, and an upload would write over it")
    if done.gone:
        print(
            f"not on this server: {text.many(done.gone, 'run')} uploaded once, to another one "
            f"(without {options.study}/wandb/*/*.synced sync uploads again) or deleted since "
            "(wandb takes no id of a deleted run again)"
        )
    return 0


def _wandb_report(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.wandb_report import save_report

    print(save_report(StudyFolder.existing(options.study)))
    return 0


def _replay(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.replay import replay

    if not options.trial.isdecimal() or len(options.trial) > DIGITS:
        raise UserError(f"trial: expected the number of a trial, got '{options.trial}'")
    folder = StudyFolder.existing(options.study)
    return 0 if replay(folder, int(options.trial), _console(highlight=False)) else 1


def _table(options: Any) -> int:
    from miras_search.benchmark.table import Table
    from miras_search.folder import StudyFolder
    from miras_search.report import text

    folders, out = _apart(options.studies)
    if not folders or out is None or not out.endswith(".parquet"):
        raise UserError("table: expected folders of studies and out=FILE.parquet")
    table = Table.of([StudyFolder.existing(folder) for folder in folders])
    table.write(out)
    print(f"{out}: {text.many(table.trials.num_rows, 'trial')}")
    return 0


def _merge(options: Any) -> int:
    from miras_search.merge import merge
    from miras_search.report import text
    from miras_search.report.html import write_report

    folders, out = _apart(options.parts)
    if len(folders) < 2 or not out:
        raise UserError("merge: expected two or more folders of studies and out=FOLDER")
    merged = merge(folders, out)
    for note in merged.notes:
        print(note)
    print(f"{merged.folder.path}: a study of {text.many(merged.trials, 'trial')}")
    print(write_report(merged.folder))
    return 0


def _apart(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Folders, and what the one out= among them says."""
    outs = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    folders = [word for word in words if not word.startswith("out=")]
    return folders, outs[0] if len(outs) == 1 else None


def _simulate(options: Any) -> int:
    from miras_search.benchmark.simulate import Settings, simulate

    print(simulate(options.table, _settings(Settings, options.replays), _console()))
    return 0


def _plan(options: Any) -> int:
    from miras_search import pruning, reach
    from miras_search.estimate import seconds
    from miras_search.recipe import load_pair
    from miras_search.report import text
    from miras_search.report.costs import print_costs
    from miras_search.study import total_finals, total_trials

    space, recipe = load_pair(options.space, options.recipe, options.overrides)
    endless = reach.uncountable(space, recipe)
    facts = {
        "feasible": None if endless else reach.count(space, recipe),
        "infinite": endless,
        "rejected": reach.rejections(space, recipe),
        "trials": total_trials(space, recipe),
        "finals": total_finals(space, recipe),
        "seconds": round(seconds(space, recipe), 1),
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    feasible, rejected = facts["feasible"], [*facts["rejected"].items()]
    variants = text.many(feasible or 0, "distinct feasible variant")
    trials = text.many(facts["trials"], "trial")
    print(printable(f"{space.name}: {endless or variants}"))
    for reason, count in rejected[:SHOWN]:
        print(printable(f"  rejected {count:>6}  {reason}"))
    if rest := [count for _, count in rejected[SHOWN:]]:
        print(f"  rejected {sum(rest):>6}  for {len(rest)} more reasons, which --json lists")
    stops = pruning.chosen(recipe)
    ways = f"sampler {recipe.sampler}" + (f", pruner {stops}" if stops != "none" else "")
    print(f"{trials} of {text.many(recipe.steps, 'step')}, {ways}")
    if facts["finals"]:
        most = "at most " if recipe.ablations else ""
        print(f"then {most}{facts['finals']} of the finals, on {recipe.seeds} new seeds")
    print(f"about {text.duration(facts['seconds'])} on this machine, from a few timed steps")
    print_costs(space, recipe, _console())
    return 0


def _show(options: Any) -> int:
    from miras_search.plan import plan
    from miras_search.size import Size
    from miras_search.space import Space
    from miras_search.stability import caution

    variant = _only(Space.load(options.variant), options.variant)
    size = _settings(Size, options.size)
    try:
        cost = plan(variant, size, vocabulary=256, length=256)
    except ValueError as error:
        raise UserError(str(error)) from None
    facts = {
        **{name: str(choice) for name, choice in variant.choices().items()},
        **variant.side_choices(),
        "digest": variant.digest,
        "equation": variant.equations(),
        "source": {n: choice.source for n, choice in variant.shown_choices().items()},
        "size": size.model_dump(),
        "caution": caution(variant),
        "lowering": cost.lowering,
        "why": cost.why,
        "parameters": cost.parameters,
        "state_bytes": cost.state_bytes,
        "flops_per_token": cost.flops_per_token,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if value is None:
            continue
        lines = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
        for i, line in enumerate(lines):
            print(f"{name if i == 0 else '':<16}{line}")
    return 0


def _list(options: Any) -> int:
    from miras_search import registry

    found: dict[str, Any]
    if options.what == "published":
        from miras_search.shipped import PUBLISHED
        from miras_search.space import Space

        spaces = [Space.load(file) for file in sorted(PUBLISHED.glob("*.yaml"))]
        variants = {space.name: (space, _only(space, space.name)) for space in spaces}
        found = {
            name: {"source": space.source}
            | {axis: str(c) for axis, c in v.axes().items()}
            | {key: value for key, value in v.to_yaml_dict().items() if key not in registry.AXES}
            for name, (space, v) in variants.items()
        }
    else:
        groups = ("task",) if options.what == "tasks" else registry.CHOICES
        found = {group: list(registry.kinds(group)) for group in groups}
    if options.json:
        if options.what == "axes":
            from miras_search.legality import census

            found["combinations"] = census()
        print(json.dumps(found, indent=2))
        return 0
    for group, members in found.items():
        print(group)
        if isinstance(members, dict):
            for axis, choice in members.items():
                print(f"  {axis:<12}{choice}")
        else:
            for kind in members:
                cls = registry.find(group, kind)
                print(f"  {kind:<16}{cls.equation}")
                if cls.model_fields:
                    print(f"  {'':<16}{', '.join(cls.model_fields)}")
    return 0


def _settings(cls: type[Model], texts: Sequence[str]) -> Model:
    """What key=value says of the fields of a model."""
    from miras_search.parsing import model
    from miras_search.yaml_file import Override

    changes = [Override.parse(text) for text in texts]
    return model(cls, {dotted(change.path): change.value for change in changes})


def _only(space: Space, file: Any) -> Variant:
    """The one variant of a space.

    Raises:
        UserError: there are more.
    """
    if space.infinite or space.size != 1:
        count = space.infinite or f"it has {space.size} variants"
        raise UserError(f"{file}: expected a space of size one: {count}")
    return next(iter(space.enumerate()))


class Command(NamedTuple):
    """A command as its --help tells it."""

    run: Callable[[Any], int]
    told: str
    """What it does."""
    arguments: tuple[str, ...]
    """Keys of `ARGUMENTS`."""
    example: str
    """Words behind miras-search that really run, after those above it."""
    results: str
    """Where results go."""
    json: bool = False
    """Whether it takes --json."""

    @property
    def name(self) -> str:
        """What is typed."""
        return self.run.__name__.strip("_").replace("_", "-")


COMMANDS = (
    Command(
        _sweep,
        "search a space by a recipe",
        ("space", "recipe", "overrides"),
        "sweep core bytes trials=20 out=runs/mine",
        "out=FOLDER, else a folder below runs/: report.html, leaderboard.csv, best.yaml, best/",
    ),
    Command(
        _plan,
        "say what a sweep would do, and how long it would take",
        ("space", "recipe", "overrides"),
        "plan core bytes steps=200",
        "printed; nothing is written",
        json=True,
    ),
    Command(
        _watch,
        "show a study while a sweep works on it, until it is complete",
        ("study", "pace"),
        "watch runs/mine every=2",
        "on the terminal; elsewhere the study is printed once; nothing is written",
    ),
    Command(
        _sync,
        "upload the offline wandb runs of a study",
        ("study",),
        "sync runs/mine",
        "on wandb; the study stays as it is",
    ),
    Command(
        _wandb_report,
        "save a report of a study on wandb",
        ("study",),
        "wandb-report runs/mine",
        "on wandb; its address is printed",
    ),
    Command(
        _resume,
        "go on with a study",
        ("study", "overrides"),
        "resume runs/mine trials=40",
        "the folder of the study",
    ),
    Command(
        _report,
        "write the leaderboard and the report of a study again",
        ("study",),
        "report runs/mine",
        "leaderboard.csv and report.html in the folder of the study; the leaderboard is printed",
    ),
    Command(
        _show,
        "explain one variant: its choices, equation, lowering and cost",
        ("variant", "size"),
        "show yaad width=128",
        "printed; nothing is written",
        json=True,
    ),
    Command(
        _list,
        "list the choices of every axis and macro architectures, or tasks, or published models",
        ("what",),
        "list published",
        "printed; nothing is written",
        json=True,
    ),
    Command(
        _train,
        "train one variant",
        ("variant", "recipe", "overrides"),
        "train runs/mine/best.yaml bytes lr=3e-3 out=runs/best",
        "a study of one trial: out=FOLDER, else a folder below runs/",
    ),
    Command(
        _replay,
        "train a trial of a study again and compare",
        ("study", "trial"),
        "replay runs/mine 3",
        "printed; the study stays as it is",
    ),
    Command(
        _compare,
        "hold several studies against each other",
        ("folders",),
        "compare runs/mine runs/best",
        "printed; nothing is written",
        json=True,
    ),
    Command(
        _merge,
        "make one study of several",
        ("parts",),
        "merge runs/mine runs/more out=runs/both",
        "out=FOLDER: a study with all trials; the others stay as they are",
    ),
    Command(
        _export,
        "write a trained model to a folder to publish",
        ("checkpoint", "target"),
        "export runs/mine/best mine",
        "the new folder: weights, README.md as a model card, variant.yaml and recipe.yaml",
    ),
    Command(
        _table,
        "write the trials of finished studies as one table",
        ("studies",),
        "table runs/mine out=mine.parquet",
        "out=FILE.parquet",
    ),
    Command(
        _simulate,
        "replay samplers against a table of trials",
        ("table", "replays"),
        "simulate recall 'methods=[local]' replays=20 out=runs/replays",
        "out=FOLDER, else runs/<table>-replays",
    ),
)
"""All commands, in the order that --help has them in."""

"""The command line: each command is a few lines over the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from miras_search.errors import UserError, dotted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from miras_search.recipe import Recipe
    from miras_search.space import Space
    from miras_search.variant import Variant

EXAMPLES = """\
examples:
  miras-search sweep core bytes trials=20 out=runs/mine
  miras-search plan core recall
  miras-search show yaad
  miras-search list --json
"""

HELP = {
    "space": "YAML file of a space, or the name of a shipped one, such as core",
    "recipe": "YAML file of a recipe, or the name of a shipped one, such as bytes",
    "variant": "YAML file of one variant, such as best.yaml of a study, or the name of a "
    "published one, such as yaad",
    "study": "folder of a study",
    "folders": "folders of two or more studies",
    "studies": "folders of finished studies of one space, such as one a seed, and out=FILE.parquet",
    "table": "Parquet file of trials, or the name of a shipped one",
    "settings": "key=value: methods=[tpe, gp/halving], replays=1000, budget=0.25, out=FOLDER",
    "trial": "number of a trial",
    "checkpoint": "folder of a trial with weights, such as runs/mine/best",
    "target": "a new folder",
    "size": "key=value of the model, such as width=128, layers=4, mlp=0",
    "what": "axes (the default), tasks or published",
    "overrides": "key=value that changes a key of either file, such as steps=100 or chunk=64",
}

SHOWN = 20
"""Variants, and reasons, that `plan` prints."""

MANY = ("overrides", "size", "settings", "studies", "folders")
"""Arguments of any number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 is done, 1 no trial completed or a replay differs, 2 bad input, 130 stopped
    by Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Flags first: argparse takes none between a positional argument and a list of them.
    flags = [word for word in words if word.startswith("-")]
    options = _parser().parse_args([*words[:1], *flags, *(w for w in words[1:] if w not in flags)])
    try:
        return options.run(options)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped: run it again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="miras-search",
        description="Search the MIRAS design space of memories that learn while they read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(run: Callable[[Any], int], told: str, *names: str, js: bool = False) -> None:
        called = run.__name__.strip("_").replace("_", "-")
        added = commands.add_parser(called, help=told, description=told)
        added.set_defaults(run=run)
        for name in names:
            metavar = "key=value" if name in MANY else name.upper()
            metavar = "STUDY" if name in ("studies", "folders") else metavar
            more: dict[str, Any] = {"nargs": "*"} if name in MANY else {}
            if name == "what":
                more = {"nargs": "?", "choices": ["axes", "tasks", "published"], "default": "axes"}
            added.add_argument(name, metavar=metavar, help=HELP[name], **more)
        if js:
            added.add_argument("--json", action="store_true", help="print JSON")

    command(_sweep, "search a space by a recipe", "space", "recipe", "overrides")
    command(
        _plan,
        "say what a sweep would do, and how long it would take",
        "space",
        "recipe",
        "overrides",
        js=True,
    )
    command(
        _show,
        "explain one variant: its choices, equation, lowering and cost",
        "variant",
        "size",
        js=True,
    )
    command(
        _list,
        "list the choices of every axis and macro architectures, or tasks, or published models",
        "what",
        js=True,
    )
    command(_train, "train one variant", "variant", "recipe", "overrides")
    command(_compare, "hold several studies against each other", "folders", js=True)
    command(_export, "write a trained model to a folder to publish", "checkpoint", "target")
    command(_report, "write the leaderboard and the report of a study again", "study")
    command(_sync, "upload the offline wandb runs of a study", "study")
    command(_wandb_report, "save a report of a study on wandb", "study")
    command(_resume, "go on with a study", "study", "overrides")
    command(_replay, "train a trial of a study again and compare", "study", "trial")
    command(_table, "write the trials of finished studies as one table", "studies")
    command(_simulate, "replay samplers against a table of trials", "table", "settings")
    return parser


def _sweep(options: Any) -> int:
    from miras_search.recipe import load_pair

    return _run(*load_pair(options.space, options.recipe, options.overrides))


def _train(options: Any) -> int:
    from miras_search.nodes import Fixed
    from miras_search.recipe import load_pair

    one = ["trials=1", "workers=1"]
    space, recipe = load_pair(options.variant, options.recipe, [*options.overrides, *one])
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
    from rich.console import Console

    from miras_search.sweep import sweep

    records = sweep(space, recipe, Console()).records()
    return 0 if any(record.score is not None for record in records) else 1


def _compare(options: Any) -> int:
    from rich.console import Console

    from miras_search.compare import compare
    from miras_search.report import comparison

    found = compare(options.folders)
    if options.json:
        print(json.dumps(comparison.plain(found), indent=2))
    else:
        comparison.terminal(found, Console())
    return 0


def _export(options: Any) -> int:
    from miras_search.export import export

    folder = export(options.checkpoint, options.target)
    print(f"{folder}: a model that miras_search.load reads; its card is {folder / 'README.md'}")
    return 0


def _report(options: Any) -> int:
    from rich.console import Console

    from miras_search.folder import StudyFolder
    from miras_search.report.html import write_report
    from miras_search.report.leaderboard import terminal, write_csv

    folder = StudyFolder.existing(options.study)
    records, recipe = folder.records(), folder.recipe
    write_csv(folder, records, recipe)
    terminal(records, recipe, Console())
    print(write_report(folder))
    return 0


def _sync(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.wandb_sync import sync

    done = sync(StudyFolder.existing(options.study))
    print(f"{done.uploaded} runs uploaded; {done.there} were there and are as they were")
    for run in done.unfinished:
        print(f"{run}: wandb does not have it to its end, and an upload would write over it")
    return 0


def _wandb_report(options: Any) -> int:
    from miras_search.folder import StudyFolder
    from miras_search.wandb_report import save_report

    print(save_report(StudyFolder.existing(options.study)))
    return 0


def _replay(options: Any) -> int:
    from rich.console import Console

    from miras_search.folder import StudyFolder
    from miras_search.replay import replay

    if not options.trial.isdecimal():
        raise UserError(f"trial: expected a number, got '{options.trial}'")
    folder = StudyFolder.existing(options.study)
    return 0 if replay(folder, int(options.trial), Console(highlight=False)) else 1


def _table(options: Any) -> int:
    from miras_search.benchmark.table import Table
    from miras_search.folder import StudyFolder

    folders = [word for word in options.studies if not word.startswith("out=")]
    outs = [word.removeprefix("out=") for word in options.studies if word.startswith("out=")]
    if not folders or len(outs) != 1 or not outs[0].endswith(".parquet"):
        raise UserError("table: expected folders of studies and out=FILE.parquet")
    table = Table.of([StudyFolder.existing(folder) for folder in folders])
    table.write(outs[0])
    print(f"{outs[0]}: {table.trials.num_rows} trials")
    return 0


def _simulate(options: Any) -> int:
    from rich.console import Console

    from miras_search.benchmark.simulate import Settings, simulate
    from miras_search.parsing import model
    from miras_search.yaml_file import Override

    changes = [Override.parse(text) for text in options.settings]
    settings = model(Settings, {dotted(change.path): change.value for change in changes})
    print(simulate(options.table, settings, Console()))
    return 0


def _plan(options: Any) -> int:
    from miras_search import reach
    from miras_search.estimate import seconds
    from miras_search.recipe import load_pair
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
    print(f"{space.name}: {endless or f'{feasible} distinct feasible variants'}")
    for reason, count in rejected[:SHOWN]:
        print(f"  rejected {count:>6}  {reason}")
    if rest := [count for _, count in rejected[SHOWN:]]:
        print(f"  rejected {sum(rest):>6}  for {len(rest)} more reasons, which --json lists")
    print(f"{facts['trials']} trials of {recipe.steps} steps, sampler {recipe.sampler}")
    if facts["finals"]:
        print(f"then {facts['finals']} of the finals, on {recipe.seeds} new seeds")
    print(f"about {_duration(facts['seconds'])} on this machine, from a few timed steps")
    _print_costs(space, recipe)
    return 0


def _print_costs(space: Space, recipe: Recipe) -> None:
    """What variants cost, and how far apart they are or from what they shall have alike."""
    from rich.console import Console
    from rich.table import Table

    from miras_search import reach
    from miras_search.plan import plan
    from miras_search.report import text

    task, match = recipe.task, recipe.match
    shown = reach.sample(space, recipe, SHOWN)
    sizes = [own.size for _, own in shown]
    plans = [plan(v, own.size, task.vocabulary, task.length, task.readout) for v, own in shown]
    columns = {
        "variant": [str(v) for v, _ in shown],
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
    table = Table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    Console().print(table)
    if match is not None:
        print(f"every variant has {match}: off is by how much")
    most, least = (f(p.parameters for p in plans) for f in (max, min))
    if most > 1.01 * least and (match is None or match.quantity != "params"):
        told = f"parameters are not matched: the largest variant has {most / least - 1:.0%} more"
        print(told if match else f"{told}; match.params=N gives all as many")


def _show(options: Any) -> int:
    from miras_search.parsing import model
    from miras_search.plan import plan
    from miras_search.size import Size
    from miras_search.space import Space
    from miras_search.stability import caution
    from miras_search.yaml_file import Override

    variant = _only(Space.load(options.variant), options.variant)
    changes = [Override.parse(text) for text in options.size]
    size = model(Size, {dotted(change.path): change.value for change in changes})
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


def _only(space: Space, file: Any) -> Variant:
    """The one variant of a space.

    Raises:
        UserError: there are more.
    """
    if space.infinite or space.size != 1:
        count = space.infinite or f"it has {space.size} variants"
        raise UserError(f"{file}: expected a space of size one: {count}")
    return next(iter(space.enumerate()))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

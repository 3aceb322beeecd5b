"""A recipe: how every variant of a space is trained and judged, and how the space is searched."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationInfo,
    field_validator,
)

from miras_search import pareto, parsing, reach, samplers, shipped
from miras_search.errors import InvalidValues, Path, UserError, nearest
from miras_search.macro.base import Macro
from miras_search.match import solve
from miras_search.node_parsing import parse_field
from miras_search.nodes import Choices, Fixed, Range
from miras_search.size import Match, Size
from miras_search.space import Rejection, Space
from miras_search.space_file import KEYS as SPACE_KEYS
from miras_search.tasks.base import Task
from miras_search.variant import Variant
from miras_search.yaml_file import Document, Override, dump

if TYPE_CHECKING:
    from miras_search.layer import Lowering

RUNNING = ("accelerator", "compile", "recompute", "wandb", "weights")
"""How one trial is run, which decides no result of it."""

MOST_FINALISTS = 100

Positive = Annotated[int, Field(ge=1, le=2**40)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Named = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    """One folder may stand without a list, and a list is kept as what can be hashed."""
    match value:
        case None:
            return ()
        case str():
            return (value,)
        case list():
            return tuple(value)
    return value


class _Value(BaseModel):
    """What one learning rate may be."""

    lr: Annotated[float, Field(gt=0, le=10)]


class Recipe(BaseModel, frozen=True):
    """Task, size, budget and search settings; immutable and hashable."""

    model_config = ConfigDict(extra="forbid", strict=True, ignored_types=(cached_property,))

    name: Annotated[str, Field(min_length=1)] = "recipe"
    """For people; the stem of the file unless given."""
    task: InstanceOf[Task]
    """What is learned and scored."""
    size: Size = Size()
    """Of the model, the same for every variant but for what `match` solves."""
    match: Match | None = None
    """What every variant has alike; null is the size alone."""
    steps: Positive = 1000
    """Outer optimiser steps of a full trial."""
    batch: Positive = 32
    """Sequences a step."""
    lr: InstanceOf[Fixed] | InstanceOf[Choices] | InstanceOf[Range] = Range(
        "log_uniform", 1e-3, 3e-2
    )
    """Peak learning rate; a list or a range is searched together with the space."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Of AdamW, on matrices."""
    warmup: Fraction = 0.1
    """Fraction of the steps in which the learning rate rises to its peak."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    evaluate: Positive = 5
    """Points of the validation curve, evenly spaced: the last at the end, if it divides steps."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the data, the initial weights and the search."""
    trials: Positive | None = None
    """How many trials; null is every point of a finite grid."""
    finalists: Annotated[int, Field(ge=0, le=MOST_FINALISTS)] = 0
    """Leading variants that run again on new seeds after the search; 0 is none."""
    ablations: bool = False
    """Whether the finals also run, for each choice of their first, the best variant of the search
    that differs from it in that choice alone."""
    seeds: Annotated[int, Field(ge=3, le=1000)] = 3
    """New seeds of the finals, the same for every finalist."""
    objectives: Annotated[tuple[Named, ...], BeforeValidator(_listed)] = (pareto.SCORE,)
    """What is sought: the best score or, with `pareto.COSTS` beside it, the front of all."""
    sampler: str = "gp"
    """Who picks the next point: one of `samplers.names()`."""
    warm_start: Annotated[tuple[Named, ...], BeforeValidator(_listed)] = ()
    """Folders of earlier studies whose best points the search begins with."""
    pruner: Literal["auto", "none", "median", "halving", "hyperband", "forecast"] = "auto"
    """Who stops trials early, at evaluations that have shown to foretell the end; auto is forecast
    where the sampler learns from one score, and none elsewhere."""
    executor: Literal["local", "ray"] = "local"
    """Worker processes of this machine, or Ray Tune."""
    address: str | None = None
    """A Ray cluster to join; null starts one on this machine."""
    workers: Positive | None = None
    """Trials at a time; null is one for each core, or under Ray each GPU."""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs, or processes on the CPU, that share the batches of a trial; all of one machine."""
    compile: bool = False
    """Whether chunks of deep memories go through torch.compile: a minute or more for a variant,
    then faster steps."""
    recompute: bool = False
    """Whether the backward pass computes each chunk of a deep memory again, in place of keeping it:
    less memory for more time."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of activations, in Lightning's words; a memory that is updated is always held in float32."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where trials run."""
    wandb: Literal["auto", "offline", "disabled"] = "auto"
    """auto is online for a user who is logged in, offline otherwise."""
    weights: Literal["best", "all"] = "best"
    """Whose weights are kept, in the study and on wandb: of the trials that may win, or of all."""
    out: Annotated[str, Field(min_length=1)] | None = None
    """The folder of the study; null is runs/<study>."""

    @field_validator("sampler")
    @classmethod
    def _sampler_is_known(cls, sampler: str) -> str:
        if sampler not in samplers.names():
            known = samplers.names()
            raise ValueError(f"unknown sampler '{sampler}': {nearest(sampler, known)}")
        return sampler

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        known = (pareto.SCORE, *pareto.COSTS)
        for name in objectives:
            if name not in known:
                raise ValueError(f"unknown objective '{name}': {nearest(name, known)}")
        if pareto.SCORE not in objectives or len({*objectives}) < len(objectives):
            raise ValueError(f"expected {pareto.SCORE} and others of {', '.join(known)}, each once")
        return objectives

    @field_validator("pruner")
    @classmethod
    def _one_score_to_stop_by(cls, pruner: str, info: ValidationInfo) -> str:
        if len(info.data.get("objectives", ())) > 1 and pruner not in ("auto", "none"):
            told = f"pruner {pruner} stops what is worse in score and may be better in cost"
            raise ValueError(f"{told}: expected pruner: none with several objectives")
        return pruner

    @field_validator("address")
    @classmethod
    def _address_is_rays(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and info.data.get("executor") == "local":
            raise ValueError(f"address {address} is where Ray runs: it needs executor: ray")
        return address

    @field_validator("recompute")
    @classmethod
    def _one_way_to_compute(cls, recompute: bool, info: ValidationInfo) -> bool:
        if recompute and info.data.get("compile"):
            raise ValueError("compile and recompute exclude each other: expected one of them")
        return recompute

    @field_validator("devices")
    @classmethod
    def _shares_of_a_batch(cls, devices: int, info: ValidationInfo) -> int:
        if (batch := info.data.get("batch", devices)) < devices:
            told = f"a batch of {batch} sequences cannot be shared by {devices} devices"
            raise ValueError(f"{told}: expected at least as many sequences")
        return devices

    @classmethod
    def load(cls, file: str | File, overrides: Iterable[str | Override] = ()) -> Recipe:
        """Read a recipe; a bare name such as "recall" is a shipped one.

        Raises:
            UserError: every problem of the file and the overrides, one line each.
        """
        file = shipped.recipe(file)
        document = Document.load(file, overrides)
        found = InvalidValues(document.found)
        try:
            recipe = cls.from_dict({"name": File(file).stem, **document.data})
            if not found.found:
                return recipe
        except InvalidValues as error:
            found = error
        raise UserError(document.problems(found))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, as YAML gives them.

        Raises:
            InvalidValues: every problem at once, each with its place.
        """
        found: list[tuple[Path, str]] = []
        values: dict[str, Any] = {}
        for name, value in data.items():
            try:
                values[name] = _field(name, value)
            except InvalidValues as error:
                found += error.found
        if "task" not in data:
            found.append((("task",), "this key is required"))
        if found:
            raise InvalidValues(found)
        return parsing.model(cls, values)

    def check_data(self) -> None:
        """Make every set of the task, so that what is missing is told before anything trains.

        Raises:
            InvalidValues: a set cannot be had, with the field of the task at fault.
        """
        try:
            for split in self.task.splits:
                self.task.dataset(split, self.seed)
        except InvalidValues as error:
            found = [(("task", *path), text) for path, text in error.found]
            raise InvalidValues(found) from None

    @property
    def lowering(self) -> Lowering:
        """What is asked of every variant, as `memorize` takes it."""
        return "recomputed" if self.recompute else "compiled" if self.compile else "auto"

    @property
    def keeps_width(self) -> bool:
        """Whether every variant has the width of `size`."""
        return self.match is None or (self.size.mlp > 0 and self.match.quantity != "state")

    def sized(self, variant: Variant) -> Recipe | Rejection:
        """The recipe of a variant's own trials, at the size that `match` asks for, or why there is
        none."""
        if self.match is None:
            return self
        size = solve(variant, self)
        if isinstance(size, Rejection):
            return size
        known = {name: getattr(self, name) for name in type(self).model_fields}
        return Recipe(**known | {"size": size, "match": None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every field spelled out; `from_dict` reads them back."""
        plain = self.model_dump(exclude={"task", "lr"})
        if self.match is not None:
            plain["match"] = self.match.model_dump(exclude_none=True)
        plain["warm_start"] = [*self.warm_start]
        spelled = plain | {"task": self.task.to_dict(), "lr": self.lr.plain()}
        lists = {name: [*v] for name, v in spelled.items() if isinstance(v, tuple)}
        return {name: (spelled | lists)[name] for name in type(self).model_fields}

    def to_yaml(self) -> str:
        """A file that `load` reads back as an equal recipe."""
        return dump(self.to_dict())

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits over what decides the result of a trial, not how trials are run."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()[:12]

    def deciding(self) -> dict[str, Any]:
        """Plain values of the fields that decide the result of a trial."""
        running = {"name", "trials", "finalists", "ablations", "seeds", "sampler", "warm_start"}
        running |= {"objectives", "pruner", "executor", "address", "workers"}
        running |= {"out", *RUNNING}
        # Without these a study has the digest that it had before there were such.
        running |= {"match"} if self.match is None else set()
        running |= {"devices"} if self.devices == 1 else set()
        return {name: value for name, value in self.to_dict().items() if name not in running}


def _field(name: str, value: Any) -> Any:
    match name:
        case "task":
            return parsing.component("task", value, (name,))
        case "lr":
            return parse_field(value, (name,), _check_lr)
        case "size" if isinstance(value, Mapping):
            return parsing.model(Size, value, (name,))
        case "match" if isinstance(value, Mapping):
            return parsing.model(Match, value, (name,))
    return parsing.field_value(Recipe, name, value, (name,))


def _check_lr(value: Any, path: Path) -> float:
    return parsing.field_value(_Value, "lr", value, path)


def load_pair(
    space_file: str | File, recipe_file: str | File, overrides: Iterable[str] = ()
) -> tuple[Space, Recipe]:
    """A space and a recipe that go together, each override going to the one that has its key.

    Raises:
        UserError: every problem of both files and of the command line, one line each; if there is
            none, why the width does not suit the space, the task's data cannot be had or no variant
            can have what `match` says.
    """
    problems: list[str] = []
    routed: dict[str, list[Override]] = {"space": [], "recipe": []}
    for text in overrides:
        try:
            override = Override.parse(text)
            routed[_owner(override)].append(override)
        except UserError as error:
            problems += error.problems
    space = recipe = None
    try:
        space = Space.load(space_file, routed["space"])
    except UserError as error:
        problems += error.problems
    try:
        recipe = Recipe.load(recipe_file, routed["recipe"])
    except UserError as error:
        problems += error.problems
    if space is not None and recipe is not None:
        documents = [
            Document.load(shipped.space(space_file), routed["space"]),
            Document.load(shipped.recipe(recipe_file), routed["recipe"]),
        ]
        problems += _unshared(space, recipe, *documents)
        try:
            _check_layers(space, recipe)
            recipe.check_data()
            if not problems:
                reach.require(space, recipe)
        except InvalidValues as error:
            problems += documents[1].problems(error)
        if not problems:
            return space, recipe
    raise UserError(problems)


def _owner(override: Override) -> str:
    key = override.path[0]
    if key == "name":
        raise UserError(f"command line '{override.text}': the space and the recipe have names")
    if key in SPACE_KEYS:
        return "space"
    if key in Recipe.model_fields:
        return "recipe"
    known = ({*SPACE_KEYS} | {*Recipe.model_fields}) - {"name"}
    raise UserError(f"command line '{override.text}': {parsing.unknown_key(key, known)}")


def _check_layers(space: Space, recipe: Recipe) -> None:
    """Refuse fewer layers than a macro architecture has."""
    for macro in space.values("macro"):
        if isinstance(macro, Macro) and macro.depth > recipe.size.layers:
            told = f"{recipe.size.layers} are too few for {macro}: expected at least {macro.depth}"
            raise InvalidValues([(("size", "layers"), told)])


def _unshared(
    space: Space, recipe: Recipe, space_document: Document, recipe_document: Document
) -> list[str]:
    """What to say of numbers of heads that cannot share the width: at the width where it is
    written, or else at the heads."""
    width, every = recipe.size.width, space.values("heads")
    if not recipe.keeps_width:
        return []
    bad = ", ".join(str(heads) for heads in every if width % heads)
    if not bad:
        return []
    if "width" in (recipe_document.data.get("size") or {}) or "heads" not in space_document.data:
        unit = math.lcm(*every)
        down, up = (width // unit * unit, (width // unit + 1) * unit)
        near = f"{down} or {up}" if down else f"{up}"
        told = f"{width} cannot be shared by {bad} heads: expected a multiple, such as {near}"
        return recipe_document.problems(InvalidValues([(("size", "width"), told)]))
    told = f"{bad} heads cannot share the width {width}: expected divisors, or another size.width"
    return space_document.problems(InvalidValues([(("heads",), told)]))

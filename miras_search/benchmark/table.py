"""A table: every trial of finished studies of one space, in one Parquet file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, Json, model_validator

from miras_search import parsing, shipped
from miras_search.errors import UserError
from miras_search.recipe import Recipe
from miras_search.registry import CHOICES
from miras_search.report.leaderboard import score_on_test
from miras_search.space import Space
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow

    from miras_search.folder import StudyFolder
    from miras_search.record import TrialRecord

METADATA = b"miras_search"
"""Key of the file's metadata, JSON: format, space, recipe, metric, direction, versions."""


class _About(BaseModel, strict=True):
    """What the metadata has to say."""

    format: Literal[1]
    """Of the file; another is refused."""
    space: dict[str, Any]
    recipe: dict[str, Any]
    versions: dict[str, list[str]]


class _Row(BaseModel, strict=True, allow_inf_nan=False):
    """What of a trial decides a replay."""

    variant: Json[dict[str, Any]]
    lr: Annotated[float, Field(gt=0)]
    score: float | None
    seconds: Annotated[float, Field(ge=0)]
    curve_step: list[Annotated[int, Field(gt=0)]]
    curve_score: list[Annotated[float, Field(allow_inf_nan=True)]]

    @model_validator(mode="after")
    def _curve(self) -> _Row:
        steps = self.curve_step
        if len(steps) != len(self.curve_score) or steps != sorted(set(steps)):
            raise ValueError("expected a curve of as many rising steps as scores")
        return self


@dataclass(frozen=True)
class Table:
    """Trials of one space by one recipe but for the seed."""

    space: Space
    recipe: Recipe
    """What every study did; its seed is 0, and where it ran is left out."""
    trials: pyarrow.Table
    """One row a trial; see `_schema`."""
    versions: dict[str, list[str]]
    """What computed it: every version of each package."""

    @classmethod
    def of(cls, folders: Sequence[StudyFolder]) -> Table:
        """The trials of the searches of studies.

        Raises:
            UserError: the studies cannot stand in one table, or nothing has finished.
        """
        first = folders[0]
        recipe = _common(first.recipe)
        files, records = [], []
        for folder in folders:
            if folder.space.digest != first.space.digest:
                raise UserError(f"{folder.path}: expected the space of {first.path}")
            if _common(folder.recipe).digest != recipe.digest:
                told = "expected the recipe of " + str(first.path)
                raise UserError(f"{folder.path}: {told}, but for the seed")
            own = [r for r in folder.records() if r.phase == "search"]
            files += [folder.record_file(r.number) for r in own]
            records += own
        return cls.of_records(first.space, recipe, records, files)

    @classmethod
    def of_records(
        cls,
        space: Space,
        recipe: Recipe,
        records: Sequence[TrialRecord],
        files: Sequence[Path] = (),
    ) -> Table:
        """The table of these trials; `files` are where their records lie.

        Raises:
            UserError: there is none, or two are of the same model, learning rate and seed.
        """
        import pyarrow

        if not records:
            raise UserError("no trial has finished: expected studies with records")
        seen: dict[tuple[str, float, int], int] = {}
        for i, record in enumerate(records):
            if record.state == "pruned":
                where = f"{files[i]}: " if files else ""
                told = "was stopped early: expected trials that ran to their end (pruner: none)"
                raise UserError(f"{where}trial {record.number} {told}")
            first = seen.setdefault((record.digest, record.lr, record.seed), i)
            if first != i:
                where = f"{files[first]} and {files[i]}: " if files else ""
                told = f"lr {record.lr:g} and seed {record.seed}: expected every trial once"
                raise UserError(f"{where}variant {record.digest} was recorded twice with {told}")
        versions: dict[str, set[str]] = {}
        for record in records:
            for package, version in record.versions.items():
                versions.setdefault(package, set()).add(version)
        rows = [_row(record) for record in records]
        return cls(
            space,
            _common(recipe),
            pyarrow.Table.from_pylist(rows, schema=_schema()),
            {package: sorted(found) for package, found in sorted(versions.items())},
        )

    @classmethod
    def load(cls, file: str | Path) -> Table:
        """Read what `write` wrote; a bare name such as "recall" is a shipped table.

        Raises:
            UserError: it is no such file.
        """
        import pyarrow
        from pyarrow import parquet

        file = shipped.table(file)
        try:
            trials = parquet.read_table(file)
            about = parsing.model(_About, json.loads((trials.schema.metadata or {})[METADATA]))
            trials = trials.cast(_schema())
            made = cls(
                Space.from_dict(about.space), Recipe.from_dict(about.recipe), trials, about.versions
            )
            for i, row in enumerate(trials.select([*_Row.model_fields]).to_pylist()):
                parsing.model(_Row, row, ("trials", i))
        except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
            told = str(error).partition("\n")[0] or type(error).__name__
            why = "no such file" if isinstance(error, FileNotFoundError) else told
            raise UserError(f"{file}: expected a table of trials: {why}") from None
        return made

    def write(self, file: str | Path) -> None:
        """Write one Parquet file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        from pyarrow import parquet

        about = {
            "format": 1,
            "space": self.space.to_dict(),
            "recipe": self.recipe.to_dict(),
            "metric": self.recipe.task.metric,
            "direction": self.recipe.task.direction,
            "versions": self.versions,
        }
        told = self.trials.replace_schema_metadata({METADATA: json.dumps(about)})
        file = Path(file)
        temporary = file.with_name(f".{file.name}.new")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(told, temporary, compression="zstd")
            temporary.replace(file)
        except OSError as error:
            raise UserError(f"{file}: cannot be written: {error.strerror}") from None


def _common(recipe: Recipe) -> Recipe:
    """The recipe without what may differ from study to study."""
    own = {"name": recipe.task.kind, "seed": 0, "out": None, "address": None, "warm_start": []}
    return Recipe.from_dict(recipe.to_dict() | own | {"executor": "local", "workers": None})


def _schema() -> pyarrow.Schema:
    """The columns. A curve is four lists of equal length: step, seconds, train loss, score."""
    import pyarrow as pa

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    axes: dict[str, Any] = dict.fromkeys(CHOICES, text)
    columns = axes | {
        "variant": text,  # JSON that `Variant.from_dict` reads
        "digest": text,
        "lr": number,
        "seed": whole,
        "trial": whole,
        "state": text,
        "score": number,
        "test_score": number,
        "parameters": whole,
        "state_bytes": whole,
        "flops_per_token": whole,
        "tokens": whole,
        "seconds": number,
        "device": text,
        "curve_step": pa.list_(pa.int32()),
        "curve_seconds": pa.list_(pa.float32()),
        "curve_train_loss": pa.list_(pa.float32()),
        "curve_score": pa.list_(number),
    }
    return pa.schema(columns.items())


def _row(record: TrialRecord) -> dict[str, Any]:
    variant = Variant.from_dict(record.variant)
    known: dict[str, Any] = {
        **{name: str(choice) for name, choice in variant.choices().items()},
        "variant": json.dumps(variant.to_dict()),
        "trial": record.number,
        "test_score": score_on_test(record),
    }
    for name in ("step", "seconds", "train_loss", "score"):
        known[f"curve_{name}"] = [getattr(point, name) for point in record.curve]
    names = _schema().names
    return {name: known[name] if name in known else getattr(record, name) for name in names}

"""What is kept of a trial: enough to rank it, to explain it and to run it again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from miras_search import parsing
from miras_search.errors import UserError
from miras_search.variant import Variant

if TYPE_CHECKING:
    from pathlib import Path

Ending = Literal["complete", "pruned", "diverged", "out of memory", "failed"]
"""How a trial ended; only complete ones have a score. The curve of a pruned one is kept."""

Phase = Literal["search", "finals"]
"""What a trial is run for: to find good variants, or to see on new seeds how sure that is."""


class Point(BaseModel, frozen=True):
    """One evaluation during training."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    step: int
    seconds: float
    """Since the trial began to train."""
    train_loss: float
    """Mean cross-entropy in nats since the previous point."""
    score: float
    """The task's metric on the validation set."""
    surprise: dict[str, float] = Field(default_factory=dict)
    """How surprised the memories are by validation tokens, by names such as "layer1/loss"."""


class TrialRecord(BaseModel, frozen=True):
    """One finished trial."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    number: int
    """The trial's number in its study."""
    digest: str
    """Of the variant: equal for equal functions."""
    variant: dict[str, Any]
    """As `Variant.from_dict` reads it."""
    lr: float
    """Peak learning rate."""
    seed: int
    recipe: dict[str, Any]
    """The recipe as it was run, at the size of this trial."""
    phase: Phase = "search"
    state: Ending
    reason: str | None = None
    """Why it did not complete, in one sentence; of one that did, what it could not be judged on."""
    metric: str
    """What `score` is; see `Task.metric`."""
    score: FiniteFloat | None = None
    """On the validation set, after the last step."""
    metrics: dict[str, float] = {}
    """Every metric on every held-out set, as "<set>/<metric>"."""
    curve: tuple[Point, ...] = ()
    parameters: int | None = None
    state_bytes: int | None = None
    flops_per_token: int | None = None
    lowering: str | None = None
    tokens: int = 0
    """Tokens trained on."""
    seconds: float = 0.0
    """Wall-clock time of the whole trial."""
    compile_seconds: float = 0.0
    """Of these, what torch.compile took."""
    started: str = ""
    """UTC, ISO 8601."""
    device: str = ""
    threads: int | None = None
    """CPU threads of torch in each process of the trial, which may decide the last digit."""
    versions: dict[str, str] = {}
    """Python and the packages that computed it."""

    @field_validator("recipe")
    @classmethod
    def _sized(cls, given: dict[str, Any]) -> dict[str, Any]:
        size = given.get("size")
        if not isinstance(size, dict) or not {"width", "mlp"} <= size.keys():
            raise ValueError("expected a recipe with a size")
        return given

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_whole(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> TrialRecord:
        """Read what `write` wrote.

        Raises:
            UserError: it is not a record, or cannot be read.
        """
        try:
            found = parsing.model(cls, json.loads(path.read_text(encoding="utf-8")))
            Variant.from_dict(found.variant, ("variant",))
            return found
        except (OSError, ValueError) as error:
            told = f"{path}: expected the record of a trial: {str(error).splitlines()[0]}"
            raise UserError(f"{told}. Without the file, resume runs the trial again") from None


def write_whole(path: Path, text: str) -> None:
    """Replace a file by `text` so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A path need not be UTF-8: what is not stands as it would in Python.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None

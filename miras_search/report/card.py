"""The model card of a trained model, as Markdown that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from miras_search.report import text
from miras_search.report.leaderboard import variant_of
from miras_search.tasks.base import METRICS
from miras_search.yaml_file import dump

if TYPE_CHECKING:
    from miras_search.recipe import Recipe
    from miras_search.record import TrialRecord
    from miras_search.variant import Variant

TEMPLATE = Path(__file__).with_name("card.md")
TOKENS = {
    "bytes": "the bytes of UTF-8",
    "corpus": "those of tokenizer.json, or bytes without one, and one more that begins a document",
}
"""What they are in tasks that are text."""


def card(name: str, variant: Variant, record: TrialRecord, recipe: Recipe) -> str:
    """The card of a model in a folder of this name, trained by a recipe of one trial."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    filters = (text.score, text.count, text.many, text.held_out, _cell, _plain, _quoted)
    environment.filters |= {made.__name__.strip("_"): made for made in filters}
    equations, kind = variant.equations(), recipe.task.kind
    metrics = list(dict.fromkeys(key.rpartition("/")[2] for key in record.metrics))
    splits = dict.fromkeys(key.rpartition("/")[0] for key in record.metrics)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        about=dump(_about(variant, recipe)).strip(),
        variant=variant_of(record),
        record=record,
        recipe=recipe,
        memory=[
            (axis, str(choice), equations.get(axis, text.NONE), choice.source)
            for axis, choice in variant.shown_choices().items()
            if axis not in variant.idle
        ],
        metrics=metrics,
        meaning=METRICS[recipe.task.metric],
        better=text.better(recipe),
        scores=[(s, [record.metrics.get(f"{s}/{m}") for m in metrics]) for s in splits],
        # Where all weights are kept, whose these are is not known.
        any_trial=record.recipe.get("weights") == "all",
        searched=record.recipe.get("trials") != 1,
        # What `train` makes as many threads of as the trial had.
        cores=(record.threads or 0) * recipe.devices,
        task=recipe.task,
        continues=recipe.task.readout == "each",
        tokens=TOKENS.get(kind, f"the symbols of the task `{kind}`"),
    )


def _about(variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """What the hub files a model under."""
    library = "transformers" if recipe.task.readout == "each" else "miras-search"
    tags = ["miras-search", "test-time-memorization", *variant.slug.split("-")]
    text_too = {"pipeline_tag": "text-generation"} if recipe.task.kind in TOKENS else {}
    return {"library_name": library, "tags": tags, **text_too}


def _plain(told: str) -> str:
    """In Markdown, which would take some signs for its own or for HTML."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", told)


def _quoted(told: str) -> str:
    """In Python."""
    return json.dumps(told, ensure_ascii=False)


def _cell(told: str) -> str:
    """In a table of Markdown."""
    return told.replace("|", "\\|")

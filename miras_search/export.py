"""A trained model as a folder to publish: weights, what they are of, a model card, and how to train
it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search.checkpoint import load
from miras_search.data.tokens import codec
from miras_search.errors import InvalidValues, UserError
from miras_search.folder import CONFIG, RECORD, WEIGHTS, occupied
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord, write_whole
from miras_search.report.card import card
from miras_search.tasks.corpus import Corpus
from miras_search.variant import Variant
from miras_search.yaml_file import Document, dump

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_TYPE = "miras"
"""What transformers knows such models by."""
MODEL = ("variant", "size", "readout")
"""Keys of a checkpoint that transformers reads too."""
OWN = ("out", "address", "warm_start")
"""Keys of a recipe that tell of folders and machines of whoever trained it: not published."""


def export(source: str | Path, target: str | Path) -> Path:
    """Write the model of a trial's folder, such as runs/mine/best, to a new folder.

    `miras_search.load` reads the folder, and so does transformers once `miras_search.hf` is
    imported; README.md is its model card, and variant.yaml and recipe.yaml train it again.

    Raises:
        UserError: the trial has no weights, or none that can be read, or the target is taken.
    """
    source, target = Path(source), Path(target)
    record, config = _read(source)
    load(source)  # what cannot be read is not published
    if occupied(target):
        raise UserError(f"{target}: is taken: expected a new or an empty folder")
    try:
        _write(source, target, record, config)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    return target


def _read(source: Path) -> tuple[TrialRecord, Mapping[str, Any]]:
    if not (source / RECORD).is_file():
        told = f"no {RECORD}: expected the folder of a trial, such as runs/mine/best"
        raise UserError(f"{source}: {told}")
    record = TrialRecord.read(source / RECORD)
    if not (source / WEIGHTS).is_file():
        raise UserError(
            f"{source}: no {WEIGHTS}: a study keeps the weights of its best trial and of each "
            "finalist's best run, or with weights=all of every trial; train makes others"
        )
    return record, Document.load(source / CONFIG).data


def _write(source: Path, target: Path, record: TrialRecord, config: Mapping[str, Any]) -> None:
    """The weights come last: a folder that has them is whole."""
    variant = Variant.from_dict(record.variant)
    recipe = _again(record)
    tokenizer = _tokenizer(recipe)
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / "variant.yaml", dump(variant.to_yaml_dict()))
    write_whole(target / "recipe.yaml", recipe.to_yaml())
    run = {key: value for key, value in record.recipe.items() if key not in OWN}
    record.model_copy(update={"recipe": run}).write(target / RECORD)
    write_whole(target / CONFIG, (source / CONFIG).read_text(encoding="utf-8"))
    model = {"readout": "each"} | {k: v for k, v in config.items() if k in MODEL}
    told = {
        "model_type": MODEL_TYPE,
        "architectures": ["MirasForCausalLM"],
        "vocab_size": config["vocabulary"],
        "dtype": "float32",
        **model,
    }
    if isinstance(recipe.task, Corpus):  # what separates documents
        told |= dict.fromkeys(("bos_token_id", "eos_token_id"), config["vocabulary"] - 1)
    write_whole(target / "config.json", json.dumps(told, indent=2) + "\n")
    if tokenizer is not None:
        write_whole(target / "tokenizer.json", tokenizer)
        about = {"tokenizer_class": "PreTrainedTokenizerFast"}
        write_whole(target / "tokenizer_config.json", json.dumps(about, indent=2) + "\n")
    write_whole(target / "README.md", card(target.resolve().name, variant, record, recipe))
    shutil.copyfile(source / WEIGHTS, target / f".{WEIGHTS}")
    (target / f".{WEIGHTS}").replace(target / WEIGHTS)


def _tokenizer(recipe: Recipe) -> str | None:
    """Of a corpus, as tokenizer.json has it; None where tokens are bytes or no text."""
    if not isinstance(recipe.task, Corpus):
        return None
    try:
        made = codec(recipe.task.tokenizer).to_json
    except InvalidValues as error:
        raise UserError([f"task.tokenizer: {told}" for _, told in error.found]) from None
    # Nothing is added to a text, as nothing was in training.
    return made and json.dumps(json.loads(made()) | {"post_processor": None}, ensure_ascii=False)


def _again(record: TrialRecord) -> Recipe:
    """The recipe of this one trial, which `train` takes as it stands."""
    once = {"lr": record.lr, "seed": record.seed, "match": None, "trials": 1, "finalists": 0}
    plainly = {"sampler": "random", "warm_start": [], "pruner": "none"}
    here = {"executor": "local", "address": None, "workers": 1, "out": None}
    return Recipe.from_dict(record.recipe | once | plainly | here)

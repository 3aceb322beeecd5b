"""A trained model on disk, weights as safetensors and everything else as YAML; and its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from miras_search import parsing
from miras_search.errors import InvalidValues, UserError
from miras_search.folder import CONFIG, WEIGHTS
from miras_search.lower.call import State
from miras_search.nn.backbone import Backbone
from miras_search.nn.state import require
from miras_search.record import write_whole
from miras_search.size import Size
from miras_search.tasks.base import Readout
from miras_search.variant import Variant
from miras_search.yaml_file import Document, dump

if TYPE_CHECKING:
    from torch import Tensor, nn

    from miras_search.nn.state import LayerState, ModelState

POSITIONS = "positions"
"""Metadata of a state file: for each layer, how many tokens or writes each part has seen."""


def save(
    folder: Path,
    model: nn.Module,
    variant: Variant,
    size: Size,
    vocabulary: int,
    readout: Readout = "each",
    **about: Any,
) -> None:
    """Write a model that `load` reads back; `about` is kept beside it and not read."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    _write(tensors, folder / WEIGHTS)
    config = {"variant": variant.to_dict(), "size": size.model_dump(), "vocabulary": vocabulary}
    write_whole(folder / CONFIG, dump(config | {"readout": readout, "about": about}))


def save_state(state: ModelState, file: str | Path) -> None:
    """Write what a model has read: `load_state` gives it back, in another process or tomorrow.

    Raises:
        UserError: the file cannot be written: there is no such folder, say.
        ValueError: the state is none.
    """
    require(state)
    if not Path(file).parent.is_dir():
        raise UserError(f"{file}: cannot be written: no folder {Path(file).parent}")
    if Path(file).is_dir():
        raise UserError(f"{file}: cannot be written: it is a folder")
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(state):
        for part, held in layer.items():
            for name, x in held.tensors.items():
                # Matrices may share what their gates hold, and a file shares nothing.
                own = x.detach().cpu().clone(memory_format=torch.contiguous_format)
                tensors[f"{i}:{part}:{name}"] = own
    positions = [{part: held.position for part, held in layer.items()} for layer in state]
    try:
        _write(tensors, Path(file), {POSITIONS: json.dumps(positions)})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be written: {error}") from None


def load_state(file: str | Path, device: str = "cpu") -> ModelState:
    """The state of a model, on its device; give it to the model that it was saved from: of another
    it is told by its shapes alone.

    Raises:
        UserError: the file is not one of `save_state`, or there is no such device.
    """
    try:
        with safe_open(file, "pt", device=device) as opened:
            positions = json.loads((opened.metadata() or {})[POSITIONS])
            told = [n for layer in positions for n in layer.values()]
            if not told or any(type(n) is not int or n < 0 for n in told):
                raise ValueError(f"positions {positions}")
            state: list[LayerState] = [
                {part: State({}, n) for part, n in layer.items()} for layer in positions
            ]
            keys: list[str] = opened.keys()
            for key in keys:
                layer, part, name = key.split(":")
                if not layer.isdecimal():
                    raise ValueError(f"layer '{layer}'")
                state[int(layer)][part].tensors[name] = opened.get_tensor(key)
            return tuple(state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{file}: not a state that save_state wrote: {error}") from None
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{file}: not to be had on the device '{device}': {error}") from None


def _write(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Replace a file by tensors, so that a crash leaves the old file or the new one."""
    temporary = file.with_name(f".{file.name}")
    save_file(tensors, temporary, metadata)
    temporary.chmod(0o644)  # safetensors makes it the owner's alone
    temporary.replace(file)


def load(folder: str | Path) -> Backbone:
    """The trained model of a folder, in evaluation mode on the CPU.

    Nothing in the folder is executed.

    Raises:
        UserError: there is no checkpoint in the folder, or it is not one of ours.
    """
    folder = Path(folder)
    document = Document.load(folder / CONFIG)
    given = {key: value for key, value in document.data.items() if key in _Config.model_fields}
    try:
        config = parsing.model(_Config, given)
        variant = Variant.from_dict(config.variant, ("variant",))
        size = parsing.model(Size, config.size, ("size",))
    except InvalidValues as error:
        raise UserError(document.problems(error)) from None
    try:
        model = Backbone(variant, size, config.vocabulary, readout=config.readout)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a checkpoint of this package: {error}") from None
    return model.eval()


class _Config(BaseModel):
    """What `load` reads of model.yaml."""

    variant: dict[str, Any]
    size: dict[str, Any]
    vocabulary: PositiveInt
    readout: Readout = "each"

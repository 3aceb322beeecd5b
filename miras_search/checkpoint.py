"""A trained model on disk: weights as safetensors, everything else as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from miras_search.errors import UserError
from miras_search.folder import CONFIG, WEIGHTS
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Size
from miras_search.record import write_whole
from miras_search.variant import Variant
from miras_search.yaml_file import Document, dump

if TYPE_CHECKING:
    from torch import nn


def save(
    folder: Path, model: nn.Module, variant: Variant, size: Size, vocabulary: int, **about: Any
) -> None:
    """Write a model that `load` reads back; `about` is kept beside it and not read."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    temporary = folder / f".{WEIGHTS}"
    save_file(tensors, temporary)
    temporary.chmod(0o644)  # safetensors makes it the owner's alone
    temporary.replace(folder / WEIGHTS)
    config = {"variant": variant.to_dict(), "size": size.model_dump(), "vocabulary": vocabulary}
    write_whole(folder / CONFIG, dump(config | {"about": about}))


def load(folder: str | Path) -> Backbone:
    """The trained model of a folder, in evaluation mode on the CPU.

    Nothing in the folder is executed.

    Raises:
        UserError: there is no checkpoint in the folder, or it is not one of ours.
    """
    folder = Path(folder)
    data = Document.load(folder / CONFIG).data
    try:
        model = Backbone(
            Variant.from_dict(data["variant"]), Size(**data["size"]), data["vocabulary"]
        )
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: not a checkpoint of this package: {error}") from None
    return model.eval()

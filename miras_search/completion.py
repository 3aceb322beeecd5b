"""What the TAB key offers for an argument of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from argcomplete.completers import DirectoriesCompleter, FilesCompleter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic import BaseModel


def offered(argument: str, prefix: str, **_: Any) -> Iterable[str]:
    """Words that begin with `prefix`, in the form that argcomplete asks for them."""
    from miras_search import shipped

    match argument:
        case "space":
            return _named(shipped.SPACES, "*.yaml", prefix)
        case "variant":
            return _named(shipped.PUBLISHED, "*.yaml", prefix)
        case "recipe":
            return _named(shipped.RECIPES, "*.yaml", prefix)
        case "table":
            return _named(shipped.TABLES, "*.parquet", prefix)
        case "overrides":
            from miras_search.recipe import Recipe
            from miras_search.space_file import KEYS

            return _keys(Recipe) + [f"{key}=" for key in KEYS if key != "name"]
        case "size":
            from miras_search.size import Size

            return _keys(Size)
        case "replays":
            from miras_search.benchmark.simulate import Settings

            return _keys(Settings)
        case "pace":
            return ["every="]
        case "trial":
            return []
    return DirectoriesCompleter()(prefix)


def _named(folder: Path, pattern: str, prefix: str) -> list[str]:
    """What ships, by name, and files."""
    kind = pattern.removeprefix("*.")
    names = [file.stem for file in folder.rglob(pattern)]
    return [*names, *FilesCompleter(allowednames=(kind,))(prefix)]


def _keys(cls: type[BaseModel]) -> list[str]:
    return [f"{key}=" for key in cls.model_fields if key != "name"]

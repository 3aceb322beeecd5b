"""The spaces, recipes and tables that come with the package, and the one that a bare name means."""

from __future__ import annotations

from pathlib import Path

from miras_search.errors import UserError, nearest

_HERE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    """Inside the installed package; beside it in a checkout."""
    return next(f for f in (_HERE / name, _HERE.parent / name) if f.is_dir())


SPACES = _folder("spaces")
PUBLISHED = SPACES / "published"
"""Models of the literature, each a space of size one."""
RECIPES = _folder("recipes")
TABLES = _HERE / "benchmark"


def space(file: str | Path) -> Path:
    """The file of a space that is meant; a bare name such as "yaad" is a shipped one.

    Raises:
        UserError: there is no shipped space of this name.
    """
    return _meant(Path(file), SPACES, "space", "*.yaml")


def recipe(file: str | Path) -> Path:
    """The file of a recipe that is meant; a bare name such as "recall" is a shipped one.

    Raises:
        UserError: there is no shipped recipe of this name.
    """
    return _meant(Path(file), RECIPES, "recipe", "*.yaml")


def table(file: str | Path) -> Path:
    """The file of a table of trials that is meant; a bare name such as "recall" is a shipped one.

    Raises:
        UserError: there is no shipped table of this name.
    """
    return _meant(Path(file), TABLES, "table", "*.parquet")


def _meant(file: Path, folder: Path, what: str, pattern: str) -> Path:
    # A folder of this name, such as core/, is no file that could be meant.
    if file.is_file() or file.parent != Path() or file.suffix:
        return file
    deepest_first = sorted(folder.rglob(pattern), key=lambda found: -len(found.parts))
    shipped = {found.stem: found for found in deepest_first}
    if file.name not in shipped:
        told = f"neither a file nor a shipped {what}: {nearest(file.name, shipped)}"
        raise UserError(f"{file}: {told}")
    return shipped[file.name]

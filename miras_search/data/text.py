"""Text for byte-level models: which files, how they are split, which windows are read."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.data.examples import Windows
from miras_search.errors import InvalidValues

if TYPE_CHECKING:
    from collections.abc import Callable

_SKIPPED = {"test", "tests", "idlelib", "encodings", "site-packages", "dist-packages"}
"""Folders of the standard library left out: what it is tested with, an editor, tables of
characters that are near copies of each other, and what others installed."""

_SHARE = 20
"""One part in 20 of the text is for validation, another for the test."""

_BASE = 0x5851F42D4C957F2D
"""An odd number, so that it has an inverse modulo 2**64."""


def standard_library() -> list[Path]:
    """The Python sources that come with Python; none if it ships only compiled ones."""
    found: list[Path] = []
    for folder, below, names in os.walk(sysconfig.get_path("stdlib")):
        below[:] = [name for name in below if name not in _SKIPPED]
        # _sysconfigdata records how this interpreter was built, on whose machine.
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return sorted(found)


def matching(pattern: str) -> list[Path]:
    """The files that a glob names.

    Raises:
        InvalidValues: there is none.
    """
    found = [Path(name).absolute() for name in glob.glob(pattern, recursive=True)]
    if files := [path for path in found if not path.is_dir()]:
        return sorted(files)
    problem = "is a folder, write it as folder/**/*.txt" if found else "matches no file"
    place = Path(pattern).absolute()
    raise _unusable(f"'{place}' {problem}: expected a glob that names files")


def _whole(content: bytes) -> bytes:
    return content


@lru_cache(maxsize=4)
def split_files(
    paths: tuple[Path, ...],
    smallest: int,
    most: int,
    read: Callable[[bytes], bytes] = _whole,
) -> dict[str, list[bytes]]:
    """The contents of each split's files: "train", "validation", "test".

    A content is used once, whatever the number of files that have it. Contents are taken in the
    order of their hashes, which is as good as random and the same everywhere: until `most` bytes
    are reached, then of these a twentieth for validation and a twentieth for the test. Nothing
    else matters, so what is tested under one seed is not trained on under another.

    Args:
        paths: files to read.
        smallest: files with fewer bytes, as they are or as they are read, are left out.
        most: bytes to keep.
        read: what to take of a file, no more than it has.

    Raises:
        InvalidValues: a file cannot be read, or fewer than three are left.
    """
    kept, room = [], most
    for _, size, path in sorted(_different(paths)):
        if smallest <= size <= room and len(content := read(path.read_bytes())) >= smallest:
            kept.append(content)
            room -= len(content)
    if len(kept) < 3:
        raise _unusable(
            f"found {len(kept)} different files with at least {smallest} bytes, among "
            f"{len(paths)}, that fit into {most} bytes, and a split by file needs 3: give more "
            "files, a shorter length or a larger max_bytes"
        )
    share = sum(map(len, kept)) // _SHARE
    held_out = {name: _take(kept, share) for name in ("validation", "test")}
    return {"train": kept, **held_out}


def _different(paths: tuple[Path, ...]) -> list[tuple[bytes, int, Path]]:
    """Hash, size and path of every different content."""
    found: dict[bytes, tuple[bytes, int, Path]] = {}
    problems = []
    for path in paths:
        try:
            if not path.is_file():
                raise OSError("no regular file")
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                found.setdefault(digest, (digest, file.tell(), path))
        except OSError as error:
            problems.append(f"cannot read '{path}': {error.strerror or error}")
    if problems:
        raise _unusable(*problems)
    return [*found.values()]


def _unusable(*problems: str) -> InvalidValues:
    """What is wrong with what the field `files` of a task names."""
    return InvalidValues([(("files",), problem) for problem in problems])


def _take(files: list[bytes], share: int) -> list[bytes]:
    """Remove about `share` bytes from `files`: those that fit, or else the smallest file."""
    taken, left = [], share
    for content in files:
        if len(content) <= left:
            taken.append(content)
            left -= len(content)
    taken = taken or [min(files, key=len)]
    files[:] = [content for content in files if content not in taken]
    return taken


def windows(files: dict[str, list[bytes]], split: str, length: int, stride: int) -> Windows:
    """Windows of a split's files, none of which occurs in a file of another split.

    A window that another split also has, whole and at any offset, is left out of both.

    Args:
        files: contents by split.
        split: one of them.
        length: tokens of an example; a window has one byte more.
        stride: bytes from one window to the next.

    Raises:
        InvalidValues: there is none.
    """
    size = length + 1
    starts, before = [], 0
    for content in files[split]:
        starts.append(torch.arange(0, max(0, len(content) - length), stride) + before)
        before += len(content)
    start = torch.cat(starts)
    text = _joined(files[split])
    others = _joined([content for name in files if name != split for content in files[name]])
    start = start[~_shared(_fingerprints(text, size)[start], _fingerprints(others, size))]
    if not len(start):
        raise _unusable(
            f"the {len(files[split])} files for {split} (the longest has "
            f"{max(map(len, files[split]))} bytes) have no {size} bytes in a row that the others "
            "lack: give more or longer files, or a shorter length"
        )
    return Windows(text, start, length)


def _joined(contents: list[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.uint8)


def _fingerprints(text: Tensor, size: int) -> Tensor:
    """A number for every stretch of `size` bytes, int64 `[bytes - size + 1]`; equal for equal ones.

    Different stretches may share a number (odds near 2**-64), so a comparison errs on one side
    only: it may call equal what is not.
    """
    # The sum of text[i + j] BASE**j over j, modulo 2**64, from running sums of text[i] BASE**i.
    sums = torch.zeros(len(text) + 1, dtype=torch.int64)
    torch.cumsum((text.long() + 1) * _powers(_BASE, len(text)), 0, out=sums[1:])
    count = max(0, len(text) - size + 1)
    inverse = pow(_BASE, -1, 2**64)
    return (sums[len(sums) - count :] - sums[:count]) * _powers(inverse, count)


def _shared(numbers: Tensor, others: Tensor) -> Tensor:
    """Which of `numbers` are among `others`, as `torch.isin`, but sooner: most differ from all the
    others in a few bits, and need not be sorted."""

    def near(these: Tensor, those: Tensor) -> Tensor:
        table = torch.zeros(1 << 22, dtype=torch.bool)
        table[(those >> 42) & (len(table) - 1)] = True
        return table[(these >> 42) & (len(table) - 1)]

    others = others[near(others, numbers)]
    found = near(numbers, others)
    found[found.clone()] = torch.isin(numbers[found], others)
    return found


def _powers(base: int, count: int) -> Tensor:
    powers = torch.full((count,), base - 2**64 if base >= 2**63 else base, dtype=torch.int64)
    powers[:1] = 1
    return powers.cumprod(0)

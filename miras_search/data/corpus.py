"""Documents of a Hugging Face data set, packed into windows of tokens that lie on disk."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from miras_search.data.tokens import Codec, codec, first_line, needed, unusable
from miras_search.errors import InvalidValues, nearest

if TYPE_CHECKING:
    from miras_search.tasks.corpus import Corpus

CACHE = "MIRAS_SEARCH_CACHE"
"""The environment variable that names the folder of what is made once for all trials."""

_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""How `datasets` calls the format of a local file; any other is one document as it stands."""

_PACKED = {".gz", ".zst", ".xz", ".bz2"}

_SHARE = 20
"""One document in 20 is for validation, another for the test."""

_BATCH = 256
"""Documents read and tokenized at a time."""

_VERSION = 1
"""Of what is cached: another number forgets it."""


class Packed(Dataset[tuple[Tensor, Tensor]]):
    """Windows of tokens; the target of each token is the next one.

    Args:
        rows: unsigned integers `[N, T + 1]`, as a rule a file that is mapped into memory.
        order: int64 `[N]`, the row of each example.
    """

    def __init__(self, rows: np.ndarray, order: Tensor) -> None:
        self.rows = rows
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = torch.from_numpy(np.array(self.rows[int(self.order[index])], dtype=np.int64))
        return window[:-1], window[1:]


def cached(task: Corpus) -> Path:
    """The folder with a file of windows for each split of a task, <split>.npy; made if need be.

    The folder's name is a hash of all that decides its content. It appears when it is complete, so
    that a process that is killed leaves nothing half, and one of two that make it at once wins.

    Raises:
        InvalidValues: the documents or the tokenizer cannot be had, or there are too few.
    """
    files = local_files(task.path)
    if files and (task.name or task.revision):
        field = "name" if task.name else "revision"
        raise unusable(field, f"'{task.path}' names local files: expected null")
    place = _root() / _key(task, files)
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            _pack(task, files, codec(task.tokenizer), made)
            try:
                made.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
    return place


def _root() -> Path:
    if place := os.environ.get(CACHE):
        return Path(place).absolute() / "corpus"
    return Path.home() / ".cache" / "miras-search" / "corpus"


def _key(task: Corpus, files: list[Path]) -> str:
    tokenizer = Path(os.path.expanduser(task.tokenizer)) if task.tokenizer is not None else None
    state = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    content = {
        "version": _VERSION,
        "task": task.to_dict(),
        "files": [(str(file), *of) for file, of in zip(files, state, strict=True)],
        "tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest()
        if tokenizer is not None and tokenizer.is_file()
        else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def part(text: str) -> str:
    """Whether a document is for "train", "validation" or "test": a hash of its content says."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest, "little") % _SHARE, "train")


def _pack(task: Corpus, files: list[Path], tokens: Codec, folder: Path) -> None:
    """Write <split>.npy of every split, reading no more documents than it takes."""
    kind = np.uint16 if tokens.size < 2**16 else np.uint32
    seen: dict[bytes, str] = {}
    heaps = [_Heap(task, split, kind, folder, seen) for split in task.splits]
    read = 0
    for texts in _documents(task, files):
        read += len(texts)
        chosen: dict[str, list[str]] = {}
        for text in texts:
            chosen.setdefault(part(text), []).append(text)
        for name, mine in chosen.items():
            if wanting := [heap for heap in heaps if heap.part == name and heap.wants]:
                stream = [x for ids in tokens.encode(mine) for x in (tokens.size, *ids)]
                for heap in wanting:
                    heap.add(np.array(stream, dtype=kind))
        if not any(heap.wants for heap in heaps):
            break
    problems: list[tuple[tuple[str], str]] = []
    for heap in heaps:
        if heap.wants:
            told = f"found {heap.count} windows of {heap.rows.shape[1]} tokens for {heap.split} in "
            told += f"{read} documents, wanted {len(heap.rows)}: expected fewer or shorter ones"
            problems.append(((heap.field,), told))
        heap.rows.flush()
    if problems:
        raise InvalidValues(problems)


class _Heap:
    """The windows of a split, as they come.

    A window, less its last token, that another part of the documents had before is left out.
    """

    def __init__(
        self, task: Corpus, split: str, kind: type, folder: Path, seen: dict[bytes, str]
    ) -> None:
        self.split = split
        self.part = "test" if split in task.evaluations else split
        self.field = "train_examples" if split == "train" else "eval_examples"
        shape = (getattr(task, self.field), task.length_of(split) + 1)
        file = folder / f"{split}.npy"
        self.rows = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
        self.count = 0
        self._left = np.empty(0, dtype=kind)
        self._seen = seen

    @property
    def wants(self) -> bool:
        """Whether there are fewer windows than asked for."""
        return self.count < len(self.rows)

    def add(self, stream: np.ndarray) -> None:
        """Cut tokens that go on where the last ones ended."""
        stream = np.concatenate([self._left, stream])
        size = self.rows.shape[1]
        whole = len(stream) // size * size
        for window in stream[:whole].reshape(-1, size):
            mark = hashlib.blake2b(window[:-1].tobytes(), digest_size=8).digest()
            if self.wants and self._seen.setdefault(mark, self.part) == self.part:
                self.rows[self.count] = window
                self.count += 1
        self._left = stream[whole:]


def _documents(task: Corpus, files: list[Path]) -> Iterator[list[str]]:
    """All documents that hold something, in the order of the data set, some at a time."""
    datasets = needed("datasets", "path")
    try:
        if files:
            stream = datasets.load_dataset(
                _format(files),
                data_files=[glob.escape(str(file)) for file in files],
                split="train",
                streaming=True,
                **({"sample_by": "document"} if _format(files) == "text" else {}),
            )
        else:
            stream = datasets.load_dataset(
                task.path, task.name, split=task.split, revision=task.revision, streaming=True
            )
        for batch in stream.iter(batch_size=_BATCH):
            if task.column not in batch:
                raise unusable("column", f"no '{task.column}': {nearest(task.column, batch)}")
            for text in batch[task.column]:
                if not isinstance(text, str):
                    told = f"'{task.column}' holds {type(text).__name__}: expected text"
                    raise unusable("column", told)
            yield [text for text in batch[task.column] if text]
    except (InvalidValues, MemoryError):
        raise
    except Exception as error:  # of any of the many packages that read
        told = f"cannot read '{task.path}': {type(error).__name__}: {first_line(error)}"
        raise unusable("path", told) from error


def local_files(path: str) -> list[Path]:
    """The files that a path or a glob names, a folder being all in it; none for a name on the hub.

    Raises:
        InvalidValues: it looks like files, and there are none, or they are of several formats.
    """
    place = Path(os.path.expanduser(path)).absolute()
    names = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    files = sorted(file for file in names if file.is_file() and not file.name.startswith("."))
    local = path.startswith((".", "/", "~")) or path.count("/") > 1 or {*"*?["} & {*path}
    if not files and (local or place.is_dir() or place.suffix in {*_FORMATS, *_PACKED, ".txt"}):
        raise unusable("path", f"'{place}' names no file")
    if len(kinds := {_format([file]) for file in files}) > 1:
        told = f"'{place}' names files of several formats ({', '.join(sorted(kinds))})"
        raise unusable("path", f"{told}: expected a glob that names one, such as folder/**/*.jsonl")
    return files


def _format(files: list[Path]) -> str:
    suffixes = [suffix for suffix in files[0].suffixes if suffix not in _PACKED]
    return _FORMATS.get(suffixes[-1] if suffixes else "", "text")

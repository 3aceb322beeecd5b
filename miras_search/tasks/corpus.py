"""Language modelling of a corpus: say the next token of documents from the Hugging Face hub."""

from __future__ import annotations

import sysconfig
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from miras_search.errors import InvalidValues
from miras_search.registry import register
from miras_search.tasks.base import AtLengths, Count, Levels, Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miras_search.data.corpus import Packed


@register
class Corpus(AtLengths):
    """Predict every next token of documents, packed end to end.

    Before each document stands a separator, the number after those of the tokenizer. The stream
    is cut into windows of `length` + 1 tokens. The documents "To be" and "or not to be", as bytes
    with length 7, begin with

        token    256  84 111  32  98 101 256    separator, "To be", separator
        target    84 111  32  98 101 256 111    "To be", separator, "o"

    and the next window follows on. A hash of a document says whether it is for training, for
    validation (one in 20) or for the test (another), so that nothing that is trained on under one
    seed is tested on under another. A window that documents of another split had before is left
    out as well. Further evaluations cut the documents of the test at other lengths.

    Documents are taken in the order of the data set, as many as are needed: the rest is never
    read. The windows are kept in a cache folder that all trials of a machine share (named by
    MIRAS_SEARCH_CACHE, ~/.cache/miras-search otherwise), and are the same for every seed, which
    decides their order in training.

    Needs the extra "data": pip install 'miras-search[data]'.
    """

    kind: ClassVar[str] = "corpus"
    equation: ClassVar[str] = "x1 .. xt -> x(t+1)"
    source: ClassVar[str] = "Penedo et al. 2406.17557 (FineWeb-Edu); Raffel et al. 1910.10683 (C4)"
    metric: ClassVar[Metric] = "bits_per_token"
    same_held_out: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "path": str(Path(sysconfig.get_path("stdlib"), "*.py")),
        "length": 64,
        "train_examples": 200,
        "eval_examples": 20,
        "evaluate_at": [32, 256],
    }

    path: str = "HuggingFaceFW/fineweb-edu"
    """A data set on the hub, or local files: a file, a folder or a glob from the current folder, of
    JSON lines or parquet, and anything else is one document a file."""
    name: str | None = None
    """The configuration of a data set on the hub, such as "sample-10BT"."""
    split: str = "train"
    """What is read of a data set on the hub."""
    revision: str | None = None
    """The commit, branch or tag of a data set on the hub."""
    column: str = "text"
    """Where a row has its document."""
    tokenizer: str | None = None
    """A file of the `tokenizers` package (tokenizer.json), a name on the hub such as "gpt2", or
    null for bytes."""
    length: Count = 1024
    train_examples: Count = 16_384
    eval_examples: Count = 256
    """Examples in each held-out split."""

    @property
    def vocabulary(self) -> int:
        from miras_search.data.tokens import codec

        return codec(self.tokenizer).size + 1

    def levels(self, split: str) -> Levels:
        """Chance is any token, unknown where the tokenizer is not at hand; the entropy of the text
        is unknown, and nothing is a plateau."""
        self.check_split(split)
        try:
            return Levels(chance=log2(self.vocabulary))
        except InvalidValues:
            return Levels()

    def dataset(self, split: str, seed: int) -> Packed:
        import numpy as np
        import torch

        from miras_search.data.corpus import Packed, cached
        from miras_search.data.examples import generator

        self.check_split(split)
        rows = np.load(cached(self) / f"{split}.npy", mmap_mode="r")
        if split == "train":
            return Packed(rows, torch.randperm(len(rows), generator=generator("corpus", seed)))
        return Packed(rows, torch.arange(len(rows)))

"""The corpus task: packing replayed independently, splits by document, the cache, what is told."""

import gzip
import hashlib
import json
import multiprocessing
import os
import random
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from miras_search import parsing
from miras_search.data import corpus
from miras_search.data.tokens import codec
from miras_search.errors import InvalidValues, UserError
from miras_search.recipe import Recipe
from miras_search.tasks.corpus import Corpus
from miras_search.testing import tasks as suite

datasets = pytest.importorskip("datasets", reason="needs the extra data")
WORDS = ["ask", "bring", "carry", "dream", "eat", "find", "grow", "hide", "it", "jüngst", "kö"]


def documents(count=400, seed=0):
    draw = random.Random(seed)
    return [
        " ".join(f"{word}{draw.randrange(10**6)}" for word in draw.choices(WORDS, k=length))
        for length in (draw.randint(1, 15) for _ in range(count))
    ]


def write_jsonl(file, texts, column="text"):
    file.write_text("".join(json.dumps({"id": i, column: t}) + "\n" for i, t in enumerate(texts)))
    return str(file)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(corpus.CACHE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(path, **fields):
    given = {"length": 16, "train_examples": 300, "eval_examples": 20, "evaluate_at": [8, 40]}
    return Corpus.model_validate({"path": path} | given | fields)


def windows(task, split, seed=0):
    return [[*t.tolist(), int(y[-1])] for t, y in suite.examples(task, split, seed)]


def whose(text):
    """The split of a document, as the definition says."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return {0: "validation", 1: "test"}.get(number % 20, "train")


def packed(texts, size, encode=lambda text: [*text.encode()], separator=256):
    stream = [*chain.from_iterable([separator, *encode(text)] for text in texts)]
    return [stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]


def check_packing(task, texts, **how):
    """Windows are the stream of the split's documents, cut; no window is left out here."""
    for split in task.splits:
        own = "test" if split in task.evaluations else split
        mine = [text for text in texts if whose(text) == own]
        count = task.train_examples if split == "train" else task.eval_examples
        wanted = packed(mine, task.length_of(split) + 1, **how)[:count]
        found = windows(task, split)
        assert (sorted(found) if split == "train" else found) == (
            sorted(wanted) if split == "train" else wanted
        )


def test_the_example_of_the_docstring():
    (first, *_) = packed(["To be", "or not to be"], 8)
    shown = [
        [int(x) for x in line.split("    ")[-2 if '"' in line else -1].split()[-7:]]
        for line in (Corpus.__doc__ or "").splitlines()
        if line.strip().startswith(("token  ", "target  "))
    ]
    assert shown == [first[:-1], first[1:]]


def test_documents_are_packed_end_to_end(folder):
    texts = documents()
    check_packing(small(write_jsonl(folder / "a.jsonl", texts)), texts)


def test_only_as_many_documents_are_read_as_it_takes(folder, monkeypatch):
    texts = documents(3000)
    monkeypatch.setattr(corpus, "_BATCH", 50)
    read = []
    part = corpus.part
    monkeypatch.setattr(corpus, "part", lambda text: (read.append(text), part(text))[1])
    task = small(write_jsonl(folder / "a.jsonl", texts))
    check_packing(task, texts)
    assert 0 < len(read) < len(texts) / 2


def test_formats_and_globs(folder):
    texts = documents()
    write_jsonl(folder / "one.jsonl", texts[:150])
    write_jsonl(folder / "two.jsonl", texts[150:])
    (folder / "zip").mkdir()
    (folder / "zip" / "a.json.gz").write_bytes(gzip.compress((folder / "one.jsonl").read_bytes()))
    (folder / "zip" / "b.json.gz").write_bytes(gzip.compress((folder / "two.jsonl").read_bytes()))
    (folder / "table [1].parquet").parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict({"text": texts}).to_parquet(str(folder / "table [1].parquet"))
    (folder / "each" / "below").mkdir(parents=True)
    for i, text in enumerate(texts):
        (folder / "each" / "below" / f"{i:04d}.md").write_text(text)
    for path in ("*.jsonl", "zip", "./table [[]1].parquet", "each", "each/**/*.md"):
        check_packing(small(path), texts)


def test_a_tokenizer_from_a_file(folder):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra data")
    texts = documents(2000)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.enable_truncation(max_length=3)  # a training-time habit that must not cut documents
    made.save(str(folder / "tokenizer.json"))
    task = small(write_jsonl(folder / "a.jsonl", texts), tokenizer="tokenizer.json")
    assert task.vocabulary == 301
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    check_packing(task, texts, encode=lambda text: plain.encode(text).ids, separator=300)
    one = codec("tokenizer.json")
    assert one.decode(one.encode(["jüngst it"])[0]) == "jüngst it"
    # Another tokenizer under the same name makes other windows.
    before = suite.fingerprint(task, 0)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.save(str(folder / "tokenizer.json"))
    os.utime("tokenizer.json", ns=(1, 1))
    assert task.vocabulary == made.get_vocab_size() + 1 < 301
    assert suite.fingerprint(task, 0) != before


def test_a_large_vocabulary_takes_wider_numbers(folder, monkeypatch):
    from miras_search.data.tokens import BYTES, Codec

    wide = Codec(70_000, lambda texts: [[x + 69_000 for x in t.encode()] for t in texts], str)
    monkeypatch.setattr(corpus, "codec", lambda name: wide)
    texts = documents()

    def encode(text):
        return [x + 69_000 for x in text.encode()]

    check_packing(
        small(write_jsonl(folder / "a.jsonl", texts)), texts, encode=encode, separator=70_000
    )
    assert BYTES.decode([0x6A, 0xC3]) == "j�"


def test_a_window_of_another_split_is_left_out(folder):
    texts = documents()
    notice = "Licensed under the terms beside. " * 9
    shared = [notice + text for text in texts]
    task = small(write_jsonl(folder / "a.jsonl", shared), length=16, evaluate_at=[])
    packs = {
        split: {tuple(w[:-1]) for w in packed([t for t in shared if whose(t) == split], 17)}
        for split in task.splits
    }
    assert packs["train"] & packs["test"], "the definition would let windows be shared"
    suite.check_disjoint(task, 0)


def test_the_seed_orders_training_alone(folder):
    task = small(write_jsonl(folder / "a.jsonl", documents()))
    one, two = suite.fingerprint(task, 0), suite.fingerprint(task, 1)
    assert {split for split in task.splits if one[split] == two[split]} == {*task.splits[1:]}
    assert sorted(windows(task, "train", 0)) == sorted(windows(task, "train", 1))


def made(folder):
    place = folder / "cache" / "corpus"
    return sorted(place.iterdir()) if place.is_dir() else []


def test_windows_are_made_once(folder, monkeypatch):
    task = small(write_jsonl(folder / "a.jsonl", documents()))
    before = suite.fingerprint(task, 0)
    assert len(made(folder)) == 1
    monkeypatch.setattr(corpus, "_pack", None)
    assert suite.fingerprint(task, 0) == before
    assert isinstance(task.dataset("train", 0).rows, np.memmap)
    monkeypatch.undo()
    monkeypatch.setenv(corpus.CACHE, str(folder / "cache"))
    for changed in (small(task.path, length=17), small(task.path, eval_examples=19)):
        assert suite.fingerprint(changed, 0) != before
    write_jsonl(folder / "a.jsonl", documents(seed=1))
    assert suite.fingerprint(task, 0) != before
    assert len(made(folder)) == 4


def test_what_fails_half_way_leaves_nothing(folder, monkeypatch):
    task = small(write_jsonl(folder / "a.jsonl", documents()))
    add, calls = corpus._Heap.add, []

    def fails(self, stream):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        add(self, stream)

    monkeypatch.setattr(corpus._Heap, "add", fails)
    with pytest.raises(KeyboardInterrupt):
        task.dataset("train", 0)
    assert made(folder) == []
    monkeypatch.setattr(corpus._Heap, "add", add)
    assert len(windows(task, "train")) == 300


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_half_way_leaves_nothing_under_the_name(folder, monkeypatch):
    task = small(write_jsonl(folder / "a.jsonl", documents()))
    monkeypatch.setattr(corpus._Heap, "add", lambda self, stream: os._exit(9))
    child = multiprocessing.get_context("fork").Process(target=task.dataset, args=("train", 0))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert all(place.name.startswith(".") for place in made(folder))
    monkeypatch.undo()
    monkeypatch.setenv(corpus.CACHE, str(folder / "cache"))
    monkeypatch.chdir(folder)
    assert len(windows(task, "train")) == 300


def test_of_two_that_make_it_at_once_one_wins(folder, monkeypatch):
    task = small(write_jsonl(folder / "a.jsonl", documents()))
    pack = corpus._pack

    def slow(*given):
        pack(*given)
        monkeypatch.setattr(corpus, "_pack", pack)
        corpus.cached(task)  # another process was faster

    monkeypatch.setattr(corpus, "_pack", slow)
    assert len(windows(task, "train")) == 300
    assert len(made(folder)) == 1


def test_a_loader_gives_batches(folder):
    from miras_search.lit import TaskData

    task = small(write_jsonl(folder / "a.jsonl", documents()))
    tokens, targets = next(iter(TaskData(task, 8, 0).loader("train")))
    assert tokens.shape == targets.shape == (8, 16)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], targets[:, :-1])


def told(task, split="train"):
    with pytest.raises(InvalidValues) as error:
        task.dataset(split, 0)
    return str(error.value)


def test_what_is_wrong_is_told_at_its_field(folder):
    texts = documents()
    good = write_jsonl(folder / "a.jsonl", texts)
    for path in ("./nothing/*.jsonl", "gone.jsonl"):
        assert told(small(path)).startswith("path: '")
        assert "names no file" in told(small(path))
    (folder / "mixed").mkdir()
    write_jsonl(folder / "mixed" / "a.jsonl", texts)
    (folder / "mixed" / "README.md").write_text("Read me.")
    assert "several formats (json, text)" in told(small("mixed"))
    assert told(small(good, column="texts")) == "column: no 'texts': did you mean 'text'?"
    assert told(small(good, column="id")) == "column: 'id' holds int: expected text"
    assert told(small(good, name="en")).startswith("name: ")
    assert told(small(good, revision="main")).startswith("revision: ")
    assert told(small(good, tokenizer="gone.json")).startswith("tokenizer: there is no file")
    (folder / "bad.jsonl").write_text("{not json\n")
    assert told(small("bad.jsonl")).startswith("path: cannot read 'bad.jsonl': ")
    (folder / "bad.json").write_text("{}")
    assert told(small(good, tokenizer="bad.json")).startswith("tokenizer: cannot read")
    few = told(small(good, train_examples=10_000, eval_examples=200))
    assert "train_examples: found " in few
    assert "in 400 documents, wanted 10000" in few
    assert "eval_examples: found " in few
    assert not made(folder)
    with pytest.raises(InvalidValues, match="evaluate_at: expected each length once"):
        parsing.component("task", {"kind": "corpus", "evaluate_at": [1024]})


@pytest.mark.parametrize(("package", "field"), [("datasets", "path"), ("tokenizers", "tokenizer")])
def test_a_missing_extra_is_told_with_the_line(folder, monkeypatch, package, field):
    from miras_search.recipe import load_pair

    monkeypatch.setitem(sys.modules, package, None)
    good = write_jsonl(folder / "a.jsonl", documents())
    (folder / "t.json").write_text("{}")
    file = folder / "recipe.yaml"
    file.write_text(f"task:\n  kind: corpus\n  tokenizer: t.json\n  path: {good}\n")
    if package == "datasets":
        file.write_text(f"task:\n  kind: corpus\n  path: {good}\n")
    with pytest.raises(UserError) as error:
        load_pair("core", file)
    wanted = f"needs the package {package}: pip install 'miras-search[data]'"
    lines = enumerate(file.read_text().splitlines(), 1)
    line = next(number for number, text in lines if text.strip().startswith(field))
    (problem,) = error.value.problems
    assert f":{line}" in problem
    assert wanted in problem
    assert Recipe.load(file).task.levels("test").chance == (
        pytest.approx(8.0056, abs=1e-4) if package == "datasets" else None
    )


def test_a_name_on_the_hub_is_asked_for_as_given(monkeypatch):
    texts = documents()
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"content": texts}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = small("allenai/c4", name="en", split="validation", revision="1ddc", column="content")
    check_packing(task, texts)
    how = {"split": "validation", "revision": "1ddc", "streaming": True}
    assert asked == [(("allenai/c4", "en"), how)]


def test_without_a_network_a_name_on_the_hub_is_told(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: iter_fails())
    assert told(small("allenai/c4")) == "path: cannot read 'allenai/c4': ConnectionError: no route"


def test_too_little_memory_is_not_told_as_a_bad_file(monkeypatch):
    def short(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(datasets, "load_dataset", short)
    with pytest.raises(MemoryError):
        small("allenai/c4").dataset("train", 0)


def iter_fails():
    raise ConnectionError("no route\nto host")


def test_a_study_of_a_corpus_keeps_the_task_in_its_checkpoint(folder):
    from miras_search.space import Space
    from miras_search.trial import TrialSpec, run
    from miras_search.yaml_file import Document

    task = small(write_jsonl(folder / "a.jsonl", documents()))
    recipe = Recipe(task=task, steps=2, batch=4, evaluate=1, wandb="disabled", accelerator="cpu")
    spec = TrialSpec(
        number=0,
        variant=Space.load("core").sample(random.Random(0)).to_dict(),
        lr=1e-3,
        seed=0,
        recipe=recipe.to_dict(),
        folder=str(folder / "trial"),
        study="s",
        cwd=str(folder),
    )
    record = run(spec)
    assert record.state == "complete", record.reason
    assert 0 < record.score < 9
    assert {f"{split}/bits_per_token" for split in task.splits[1:]} <= {*record.metrics}
    about = Document.load(Path(folder, "trial", "model.yaml")).data["about"]
    assert parsing.component("task", about["task"]) == task

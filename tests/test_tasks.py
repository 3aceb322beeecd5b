"""Every registered task keeps its promises; mqar and bytes are replayed independently."""

import json
import subprocess
import sys

import pytest
import torch

from miras_search import parsing, registry
from miras_search.data.recall import distinct, slots
from miras_search.data.text import _shared, split_files, standard_library
from miras_search.errors import InvalidValues, UserError
from miras_search.tasks.base import IGNORE, Task
from miras_search.tasks.bytes import Bytes
from miras_search.tasks.mqar import Mqar
from miras_search.testing import tasks as suite

KINDS = list(registry.kinds("task"))


def chi_square(observed, expected):
    """The statistic and its 1 - 1e-6 quantile (Wilson and Hilferty)."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    free = len(expected) - 1
    spread = 2 / (9 * free)
    return statistic, free * (1 - spread + 4.7534 * spread**0.5) ** 3


@pytest.fixture(params=KINDS)
def task(request) -> Task:
    return suite.small(request.param)


def test_examples_have_the_promised_types_shapes_and_ranges(task):
    for split in task.splits:
        suite.check_examples(task, split, seed=0)


def test_no_example_is_in_two_splits(task):
    suite.check_disjoint(task, seed=0)
    suite.check_disjoint(task, seed=1)


def test_levels_are_in_order(task):
    for split in task.splits:
        suite.check_levels(task, split)


def test_another_seed_trains_on_other_examples(task):
    assert suite.fingerprint(task, 0)["train"] != suite.fingerprint(task, 1)["train"]


def test_held_out_examples_are_the_same_for_every_seed_or_for_none(task):
    one, two = suite.fingerprint(task, 0), suite.fingerprint(task, 1)
    for split in task.splits[1:]:
        assert (one[split] == two[split]) == task.same_held_out


def test_what_any_seed_trains_on_no_other_seed_is_tested_on(task):
    train = {tokens.numpy().tobytes() for tokens, _ in suite.examples(task, "train", 0)}
    for split in task.splits[1:]:
        assert train.isdisjoint(t.numpy().tobytes() for t, _ in suite.examples(task, split, 1))


def test_another_process_makes_the_same_examples():
    script = (
        "import json, torch; from miras_search.testing import tasks as s; torch.set_num_threads(1);"
        f"print(json.dumps({{k: s.fingerprint(s.small(k), 7) for k in {KINDS}}}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(run.stdout) == {
        kind: suite.fingerprint(suite.small(kind), 7) for kind in KINDS
    }


def test_round_trip_through_plain_values(task):
    again = parsing.component("task", json.loads(json.dumps(task.to_dict())))
    assert again == task
    assert hash(again) == hash(task)


def test_an_unknown_split_is_told(task):
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        task.dataset("validatoin", 0)


def test_listing_tasks_does_not_import_torch():
    script = (
        "import sys; from miras_search import registry; registry.kinds('task');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def replay(tokens, targets, pairs, vocab):
    """Read one mqar sequence as its definition says, and return the slots asked, by key."""
    keys, values = tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
    assert len(set(keys)) == len(set(values)) == pairs
    assert all(1 <= key < vocab // 2 for key in keys)
    assert all(vocab // 2 <= value < vocab for value in values)
    memory = dict(zip(keys, values, strict=True))
    asked = {}
    for position, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        if target == IGNORE:
            continue
        assert position >= 2 * pairs
        assert position % 2 == 0
        assert token not in asked
        assert memory[token] == target
        asked[token] = (position - 2 * pairs) // 2
    assert set(asked) == set(keys)
    return [asked[key] for key in keys]


@pytest.mark.parametrize("fill", ["zero", "random"])
def test_mqar_sequences_follow_the_definition(fill):
    task = Mqar.model_validate(Mqar.small | {"fill": fill, "vocab": 65})
    unused = set()
    for split in task.splits:
        length, pairs = task.shape(split)
        for tokens, targets in suite.examples(task, split, 0):
            assert len(tokens) == length
            replay(tokens.tolist(), targets.tolist(), pairs, task.vocab)
            unused |= set(tokens[2 * pairs :][targets[2 * pairs :] == IGNORE].tolist())
    # About 6000 random tokens: one of the 65 is missed with odds below 1e-37.
    assert unused == ({0} if fill == "zero" else set(range(65)))


def test_mqar_pairs_are_never_repeated():
    """A crowded space, a quarter of it used, where chance alone would repeat many."""
    task = Mqar(length=8, pairs=1, vocab=64, train_examples=147, eval_examples=50)
    seen = [t[:2].tolist() for split in task.splits for t, _ in suite.examples(task, split, 0)]
    assert len(seen) == 247 <= 31 * 32 / 4
    assert len({*map(tuple, seen)}) == len(seen)


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_mqar_gaps_follow_the_power_law(power):
    """The first key's slot has weight power * g**(power - 1). Odds of a false alarm: 1e-6."""
    task = Mqar(length=32, pairs=2, train_examples=8_000, eval_examples=1, power=power)
    first = torch.zeros(14)
    for tokens, targets in suite.examples(task, "train", 0):
        first[replay(tokens.tolist(), targets.tolist(), 2, task.vocab)[0]] += 1
    weight = torch.tensor([power * g ** (power - 1) for g in range(1, 15)])
    statistic, limit = chi_square(first, 8_000 * weight / weight.sum())
    assert statistic < limit


def test_mqar_slots_are_drawn_one_after_the_other_without_replacement():
    """All ordered triples of 4 slots against their exact odds. Odds of a false alarm: 1e-6."""
    drawn = slots(50_000, 3, 4, 0.3, torch.Generator().manual_seed(0)).tolist()
    weight = [0.3 * g ** (0.3 - 1) for g in range(1, 5)]
    total = sum(weight)
    odds = {
        (a, b, c): weight[a]
        / total
        * weight[b]
        / (total - weight[a])
        * weight[c]
        / (total - weight[a] - weight[b])
        for a in range(4)
        for b in range(4)
        for c in range(4)
        if len({a, b, c}) == 3
    }
    counts = dict.fromkeys(odds, 0)
    for triple in drawn:
        counts[tuple(triple)] += 1
    expected = 50_000 * torch.tensor([*odds.values()])
    statistic, limit = chi_square(torch.tensor([*counts.values()]), expected)
    assert statistic < limit


def test_distinct_numbers_are_uniform():
    """All ordered pairs of 4 numbers. Odds of a false alarm: 1e-6."""
    drawn = distinct(24_000, 2, 3, 7, torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn[:, 0] - 3) * 4 + drawn[:, 1] - 3, minlength=16).view(4, 4)
    assert counts.diagonal().sum() == 0
    statistic, limit = chi_square(counts[~torch.eye(4).bool()], torch.full((12,), 2000.0))
    assert statistic < limit


def test_mqar_plateau_depends_on_the_split():
    task = Mqar(evaluate_at=((128, 8),))
    assert (task.levels("test").plateau, task.levels("128x8").plateau) == (1 / 4, 1 / 8)
    assert task.levels("test").chance == 1 / 4096


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"length": 7}, "length: expected an even number"),
        ({"pairs": 20}, "pairs: expected at most length / 4 = 16 pairs"),
        ({"vocab": 6, "pairs": 4}, "vocab: 6 tokens fill 4 pairs in 0 ways"),
        ({"evaluate_at": [[64, 20]]}, r"evaluate_at: .* at least 4 \* pairs, got \[64, 20\]"),
        ({"evaluate_at": [[64, 4]]}, "evaluate_at: .* not those of validation"),
        ({"evaluate_at": [[64]]}, "evaluate_at"),
        ({"evaluate_at": [64]}, "evaluate_at: expected a list"),
        (
            {"vocab": 80, "pairs": 1},
            "vocab: 80 tokens fill 1 pairs in 1560 ways, and 106000 examples",
        ),
        ({"power": 0.0}, "power: expected more than 0"),
        ({"fill": "noise"}, "fill: expected 'random' or 'zero'"),
    ],
)
def test_mqar_refuses(fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        parsing.component("task", {"kind": "mqar", **fields})


def write_corpus(folder, count=12, size=500):
    random = torch.Generator().manual_seed(1)
    for index in range(count):
        (folder / str(index % 3)).mkdir(exist_ok=True)
        content = torch.randint(256, (size,), generator=random, dtype=torch.uint8)
        (folder / str(index % 3) / f"{index}.txt").write_bytes(content.numpy().tobytes())


def corpus_task(**fields):
    small = {"files": "**/*.txt", "length": 32, "evaluate_at": [16, 64], "train_examples": 300}
    return parsing.component("task", {"kind": "bytes", **small, **fields})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def windows(task, split):
    """Each window whole: its tokens and the last target."""
    for tokens, targets in suite.examples(task, split, 0):
        assert targets[:-1].tolist() == tokens[1:].tolist()
        yield bytes([*tokens.tolist(), int(targets[-1])])


def check_windows(task, files):
    for split in task.splits:
        home = split if split in files else "test"
        elsewhere = [content for name in files if name != home for content in files[name]]
        for window in windows(task, split):
            assert any(window in content for content in files[home])
            assert not any(window in content for content in elsewhere)


def test_bytes_windows_stay_in_the_files_of_their_split():
    task = suite.small("bytes")
    assert isinstance(task, Bytes)
    files = split_files(tuple(standard_library()), task.length + 1, task.max_bytes)
    assert sum(len(content) for name in files for content in files[name]) <= task.max_bytes
    check_windows(task, files)


def test_bytes_reads_files_by_glob(folder):
    write_corpus(folder)
    for path in [*folder.rglob("*.txt")]:
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    task = corpus_task()
    files = split_files(tuple(sorted(folder.rglob("*.txt"))), 33, task.max_bytes)
    assert sorted(map(len, files.values())) == [1, 1, 10]
    check_windows(task, files)


def test_bytes_leaves_out_text_that_two_splits_share(folder):
    write_corpus(folder)
    notice = b"Licensed under the terms that stand in the file beside this one. " * 3
    for path in folder.rglob("*.txt"):
        path.write_bytes(notice + path.read_bytes())
    task = corpus_task(length=64, evaluate_at=[], train_examples=100_000)
    files = split_files(tuple(sorted(folder.rglob("*.txt"))), 65, task.max_bytes)
    check_windows(task, files)
    # Held-out windows would begin with the notice, at offsets 0, 64 and 128.
    assert not any(window in notice for split in task.splits for window in windows(task, split))


def test_shared_fingerprints_are_those_of_isin():
    generator = torch.Generator().manual_seed(0)
    for low, high, shift in ((0, 40, 0), (-(2**62), 2**62, 0), (-50, 50, 43), (0, 2**20, 40)):
        a, b = (torch.randint(low, high, (n,), generator=generator) << shift for n in (3000, 200))
        b = torch.cat([b, a[::7]])
        for one, other in ((a, b), (b, a), (a[:0], b), (a, b[:0])):
            assert torch.equal(_shared(one, other), torch.isin(one, other))


def test_bytes_held_out_windows_do_not_depend_on_the_seed():
    task = suite.small("bytes")
    one, two = suite.fingerprint(task, 0), suite.fingerprint(task, 1)
    assert {s for s in task.splits if one[s] == two[s]} == {*task.splits[1:]}


def test_bytes_sees_files_that_came_later(folder):
    write_corpus(folder)
    before = suite.fingerprint(corpus_task(), 0)
    write_corpus(folder, count=13)
    assert suite.fingerprint(corpus_task(), 0) != before


def test_bytes_tells_what_is_wrong_with_the_files(folder):
    with pytest.raises(UserError, match="matches no file"):
        corpus_task().dataset("train", 0)
    write_corpus(folder, count=2)
    with pytest.raises(UserError, match=r"found 2 different files .* needs 3"):
        corpus_task().dataset("train", 0)
    with pytest.raises(UserError, match="is a folder"):
        corpus_task(files="1").dataset("train", 0)
    write_corpus(folder)
    with pytest.raises(UserError, match=r"found 0 different files .* 1001 bytes"):
        corpus_task(length=1000).dataset("train", 0)
    with pytest.raises(UserError, match=r"files for test \(the longest has 500 bytes\)"):
        corpus_task(evaluate_at=[600]).dataset("600", 0)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    with pytest.raises(UserError, match=r"cannot read .*gone\.txt"):
        corpus_task().dataset("train", 0)


def test_bytes_refuses_a_length_twice():
    with pytest.raises(InvalidValues, match="evaluate_at: expected each length once"):
        parsing.component("task", {"kind": "bytes", "evaluate_at": [256]})

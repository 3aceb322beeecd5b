"""A training set may mix lengths, a batch never does."""

import pytest
import torch
from of_tasks import check_all, check_elsewhere, run
from torch.utils.data import ConcatDataset, DataLoader

from miras_search import parsing
from miras_search.data.examples import Batches, parts
from miras_search.errors import InvalidValues
from miras_search.lit import TaskData
from miras_search.tasks.base import IGNORE
from miras_search.tasks.mqar import Mqar
from miras_search.testing import tasks as suite

MIXED = {**Mqar.small, "train_at": [[32, 4, 100], [8, 2, 30], [16, 1, 20]]}


@pytest.fixture
def mixed():
    return parsing.component("task", {"kind": "mqar", **MIXED})


def test_the_suite_holds(mixed):
    check_all(mixed)


def test_another_process_makes_the_same_examples():
    check_elsewhere({"kind": "mqar", **MIXED})


def test_mqar_mixes_sets_without_a_repeat(mixed):
    train = mixed.dataset("train", 0)
    assert isinstance(train, ConcatDataset)
    assert [len(part) for part in parts(train)] == [200, 100, 30, 20]
    assert mixed.train_lengths == (16, 32, 8)
    shapes = [(16, 2), (32, 4), (8, 2), (16, 1)]
    seen = []
    for (length, pairs), part in zip(shapes, parts(train), strict=True):
        assert part.tokens.shape[1] == length
        assert ((part.targets != IGNORE).sum(1) == pairs).all()
        seen += [tuple(row) for row in part.tokens[:, : 2 * pairs].tolist()]
    for split in mixed.splits[1:]:
        _, pairs = mixed.shape(split)
        seen += [tuple(row) for row in mixed.dataset(split, 0).tokens[:, : 2 * pairs].tolist()]
    assert len({*seen}) == len(seen)


def test_more_training_sets_change_no_other(mixed):
    plain = parsing.component("task", {"kind": "mqar", **Mqar.small})
    with_more, without = suite.fingerprint(mixed, 0), suite.fingerprint(plain, 0)
    assert {s for s in plain.splits if with_more[s] != without[s]} == {"train"}
    assert torch.equal(parts(mixed.dataset("train", 0))[0].tokens, plain.dataset("train", 0).tokens)


@pytest.mark.parametrize("kind", ["needle", "multi_hop"])
def test_haystacks_mix_lengths_without_a_repeat(kind):
    """The suite, sets as asked for, and no story of one set again in another."""
    plain = suite.small(kind)
    fields = {**plain.to_dict(), "train_at": [[360, 40], [330, 70]]}
    task = parsing.component("task", fields)
    for split in task.splits:
        suite.check_examples(task, split, seed=0)
    suite.check_disjoint(task, seed=0)
    check_elsewhere(fields)
    sets = parts(task.dataset("train", 0))
    assert [len(part) for part in sets] == [200, 40, 70]
    assert [len(part[0][0]) for part in sets] == [*task.train_lengths] == [plain.length, 360, 330]
    main = [*suite.examples(plain, "train", 0)]
    for one, other in zip(sets[0], main, strict=True):
        assert torch.equal(one[0], other[0])
    endings = [bytes(tokens[-60:].tolist()) for part in sets for tokens, _ in part]
    if kind == "needle":  # the key and the value: a repeat has odds of 1 in 40
        assert len({*endings}) == len(endings)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_at": [[1024, 9]]}, "train_at: expected each length once, and not .* 1024"),
        ({"train_at": [[2048, 9], [2048, 8]]}, "train_at: expected each length once"),
        ({"train_at": [[150, 9]]}, "150 bytes are too few"),
        ({"train_at": [[2048]]}, "train_at"),
        ({"train_at": [2048]}, "train_at"),
    ],
)
def test_haystacks_refuse_further_training_sets(fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        parsing.component("task", {"kind": "needle", **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_at": [[64, 4, 10]]}, "train_at: .* once, and not those of validation"),
        ({"train_at": [[64, 20, 10]]}, r"train_at: .* at least 4 \* pairs, got \[64, 20\]"),
        ({"train_at": [[64, 2]]}, "train_at"),
        ({"train_at": [[64, 1, 10**7]]}, "vocab: 8192 tokens fill 1 pairs in 16773120 ways"),
    ],
)
def test_mqar_refuses_further_training_sets(fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        parsing.component("task", {"kind": "mqar", **fields})


class Undeclared(Mqar):
    """Trains on lengths that it does not tell."""

    @property
    def train_lengths(self):
        return (self.length,)


class Unsorted(Mqar):
    """One set with several lengths."""

    def dataset(self, split, seed):
        found = super().dataset(split, seed)
        return [*found] if split == "train" else found


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Undeclared, r"examples of train have lengths \[8, 16, 32\]: expected \(16,\)"),
        (Unsorted, r"a part of train has lengths \[8, 16, 32\]: expected one"),
    ],
)
def test_the_suite_catches_lengths_mixed_otherwise(cls, expected):
    with pytest.raises(AssertionError, match=expected):
        suite.check_examples(cls.model_validate(MIXED), "train", seed=0)


def order(dataset, size, seed):
    return Batches(dataset, size, torch.Generator().manual_seed(seed))


def test_batches_have_one_length_and_every_example_once(mixed):
    train = mixed.dataset("train", 0)
    batches = order(train, 16, 0)
    for _ in range(3):
        found = [*batches]
        assert sorted(i for batch in found for i in batch) == [*range(len(train))]
        assert len(found) == len(batches) == 13 + 7 + 2 + 2
        assert all(len({len(train[i][0]) for i in batch}) == 1 for batch in found)
        short = [len(batch) for batch in found if len(batch) < 16]
        assert short == [8, 4, 14, 4]
        assert all(len(batch) == 16 for batch in found[: -len(short)])


def test_lengths_alternate_through_an_epoch(mixed):
    """Two thirds of the batches are of the largest set, or of the next: 13 and 7 of 24. All 6 full
    ones of the second come first, or last, with odds below 1e-4 for this fixed seed."""
    train = mixed.dataset("train", 0)
    lengths = [len(train[batch[0]][0]) for batch in order(train, 16, 0)][:20]
    second = [i for i, length in enumerate(lengths) if length == 32]
    assert len(second) == 6
    assert second[-1] - second[0] > 8


def test_the_seed_gives_the_order(mixed):
    loaders = [TaskData(mixed, 16, seed).loader("train") for seed in (0, 0, 1)]
    first, again, other = ([tokens.tolist() for tokens, _ in loader] for loader in loaders)
    assert first == again
    assert first != other
    assert first != [tokens.tolist() for tokens, _ in loaders[0]]  # the next epoch


def test_one_length_is_loaded_as_torch_loads_it():
    task = suite.small("mqar")
    random = torch.Generator().manual_seed(3)
    plain = DataLoader(task.dataset("train", 3), 16, shuffle=True, generator=random)
    ours = TaskData(task, 16, 3).loader("train")
    for _ in range(2):
        for (tokens, targets), (a, b) in zip(plain, ours, strict=True):
            assert torch.equal(tokens, a)
            assert torch.equal(targets, b)


def test_a_trial_trains_on_mixed_lengths(tmp_path):
    task, record = run(tmp_path, {"kind": "mqar", **MIXED}, steps=30, batch=16)
    loader = TaskData(task, 16, 0).loader("train")
    batches = [tokens.numel() for _ in range(2) for tokens, _ in loader][:30]
    assert record.tokens == sum(batches)
    assert len({*batches}) > 3

"""The tasks of MAD and of state tracking follow their definitions, which are replayed here."""

import re
from collections import Counter
from itertools import groupby, permutations, product, takewhile
from math import comb
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
import yaml

from miras_search import parsing, registry
from miras_search.data import pairs
from miras_search.data.copying import among_blanks
from miras_search.data.examples import first_equal
from miras_search.data.splits import fingerprints, quarters
from miras_search.errors import InvalidValues
from miras_search.tasks.base import IGNORE
from miras_search.tasks.odds import most_frequent, value_of_any_key
from miras_search.tasks.synthetic import Synthetic
from miras_search.testing import tasks as suite

DOC = Path(__file__).parent.parent / "docs" / "tasks.md"


def task_of(kind: str, **fields) -> Synthetic:
    cls = registry.find("task", kind)
    assert issubclass(cls, Synthetic)
    task = parsing.component("task", {"kind": kind, **cls.small, **fields})
    assert isinstance(task, Synthetic)
    return task


KINDS = [kind for kind, cls in registry.kinds("task").items() if issubclass(cls, Synthetic)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Each replay reads the tokens of one example as the definition says and gives its targets, None
# where nothing is asked.


def replay_pairs(tokens, keys, values, noise=0):
    known, targets = {}, [None] * len(tokens)
    for i in range(0, len(tokens), 2):
        key, value = tokens[i : i + 2]
        if key >= keys + values:
            assert keys + values <= min(key, value) <= max(key, value) < keys + values + noise
            continue
        assert keys <= value < keys + values
        if key in known:
            assert value == known[key]
            targets[i] = value
        known[key] = value
    assert targets[-2] is not None, "the last key was not seen before"
    return targets


def replay_in_context_recall(task, tokens, split):
    return replay_pairs(tokens, task.vocab // 2, task.vocab - task.vocab // 2)


def replay_noisy_recall(task, tokens, split):
    both = task.vocab - task.noise_vocab
    return replay_pairs(tokens, both // 2, both - both // 2, task.noise_vocab)


def replay_fuzzy_recall(task, tokens, split):
    n, fill = (task.vocab - 1) // 2, task.vocab - 1
    kinds = ["fill" if x == fill else "key" if x < n else "value" for x in tokens]
    runs = [[*run] for _, run in groupby(range(len(tokens)), key=lambda i: kinds[i])]
    assert kinds[0] == "fill"
    assert "fill" not in kinds[len(runs[0]) :]
    known, targets, again = {}, [None] * len(tokens), False
    for where, what in zip(runs[1::2], runs[2::2], strict=True):
        key, value = (tuple(tokens[i] for i in run) for run in (where, what))
        assert len({*key}) == len(key) <= task.key_motif
        assert len({*value}) == len(value) <= task.value_motif
        assert split == "train" or len(key) == task.key_motif
        again = key in known
        if again:
            assert known[key] == value
            for i in what:
                targets[i - 1] = tokens[i]
        known[key] = value
    assert again, "the probe was not seen before"
    return targets


def replay_selective_copying(task, tokens, split):
    blank, sign = task.vocab - 2, task.vocab - 1
    end = tokens.index(sign)
    said = [x for x in tokens[:end] if x != blank]
    assert len(said) == task.copy_tokens
    assert tokens[end - 1] != blank
    assert tokens[end + 1 :] == [blank] * len(said)
    return [None] * (end + 1) + said


def replay_compression(task, tokens, split):
    assert tokens[-1] == task.vocab - 1
    assert max(tokens[:-1]) < task.vocab - 1
    return [*tokens[:-1], None]


def replay_memorization(task, tokens, split):
    """The map is what all examples of a seed say together; here only where it is asked for."""
    assert set(tokens[1::2]) == {task.vocab - 1}
    assert max(tokens[::2]) < (task.vocab - 1) // 2
    return None


def replay_parity(task, tokens, split):
    return [sum(tokens[: t + 1]) % 2 for t in range(len(tokens))]


def replay_permutation(task, tokens, split):
    every = [*permutations(range(task.degree))]
    places, targets = tuple(range(task.degree)), []
    for token in tokens:
        # The things move; `places` says which one is where.
        places = tuple(places[source] for source in every[token])
        targets.append(every.index(places))
    return targets


def check(task, tokens, targets, split):
    found = globals()[f"replay_{task.kind}"](task, tokens, split)
    if found is not None:
        assert targets == [IGNORE if x is None else x for x in found]


@pytest.mark.parametrize("kind", KINDS)
def test_examples_follow_the_definition(kind):
    task = task_of(kind)
    for split in task.splits:
        for tokens, targets in suite.examples(task, split, 0):
            assert len(tokens) == task.length_of(split)
            check(task, tokens.tolist(), targets.tolist(), split)


@pytest.mark.parametrize("kind", KINDS)
def test_documented_example_follows_the_definition(kind):
    """It is one of the small instance, whose settings are those told above it."""
    task = task_of(kind)
    told = re.search(r"^ *token +(.*)\n *target +(.*)$", str(type(task).__doc__), re.MULTILINE)
    assert told
    tokens = [int(x) for x in told[1].split()]
    targets = [IGNORE if x == "." else int(x) for x in told[2].split()]
    assert len(tokens) == len(targets) == task.length
    check(task, tokens, targets, "test")
    stated = " ".join(str(type(task).__doc__).split())
    for name, value in type(task).small.items():
        if name not in ("train_examples", "eval_examples", "evaluate_at"):
            assert re.search(rf"{name} {value}\b", stated), f"{name} {value}"


def test_memorization_has_one_map_for_each_seed():
    task, maps = task_of("memorization"), []
    for seed in (0, 1):
        known: dict[int, int] = {}
        for split in task.splits:
            for tokens, targets in suite.examples(task, split, seed):
                for key, value in zip(tokens[::2].tolist(), targets[1::2].tolist(), strict=True):
                    assert known.setdefault(key, value) == value
                assert (targets[::2] == IGNORE).all()
        assert len({*known.values()}) == len(known) == 32
        assert {*known.values()} <= {*range(32, 64)}
        maps.append(known)
    # Equal with odds of 1 / 32!.
    assert maps[0] != maps[1]


@pytest.mark.parametrize("degree", [2, 4, 5])
def test_permutations_of_other_degrees(degree):
    task = task_of("permutation", degree=degree, train_examples=20)
    seen = set()
    for tokens, targets in suite.examples(task, "24", 0):
        check(task, tokens.tolist(), targets.tolist(), "24")
        seen |= {*tokens.tolist()}
    # 1200 tokens of at most 120: a given one is missed with odds below 5e-5.
    assert len(seen) > 0.9 * task.vocabulary


@pytest.mark.parametrize("kind", ["in_context_recall", "noisy_recall", "fuzzy_recall"])
def test_training_may_ask_for_every_next_token(kind):
    some, every = task_of(kind), task_of(kind, train_on="all")
    for (tokens, asked), (same, targets) in zip(
        suite.examples(some, "train", 0), suite.examples(every, "train", 0), strict=True
    ):
        assert tokens.equal(same)
        assert targets.tolist() == [*tokens[1:].tolist(), IGNORE]
        assert (asked == IGNORE).any()
    for split in some.splits[1:]:
        assert suite.fingerprint(some, 0)[split] == suite.fingerprint(every, 0)[split]


def test_more_training_leaves_the_held_out_examples_as_they_are():
    few, more = task_of("parity"), task_of("parity", train_examples=300)
    assert few.dataset("train", 0).tokens.equal(more.dataset("train", 0).tokens[:200])
    for split in few.splits[1:]:
        assert suite.fingerprint(few, 0)[split] == suite.fingerprint(more, 0)[split]


@pytest.mark.parametrize("kind", KINDS)
def test_no_example_is_made_twice(kind):
    """Within a split; a third of a small space is taken, where chance alone would repeat many."""
    fields = {"length": 8, "train_examples": 80, "eval_examples": 40} if kind == "parity" else {}
    task = task_of(kind, **fields)
    for split in task.splits:
        rows = [tuple(tokens.tolist()) for tokens, _ in suite.examples(task, split, 0)]
        assert len({*rows}) == len(rows)


def test_splits_take_their_share_and_do_not_know_the_answer():
    """All bit strings of length 14: a half and two quarters, and even ones as often as odd ones.

    Were splits coin flips, each count would be off by 5 standard deviations with odds of 6e-7.
    """
    every = torch.tensor([*product((0, 1), repeat=14)])
    where = quarters(fingerprints(every))
    odd = every.sum(1) % 2
    for quarter in range(4):
        for parity in (0, 1):
            n = len(every) / 2
            count = int(((where == quarter) & (odd == parity)).sum())
            assert abs(count - n / 4) < 5 * (n * 3 / 16) ** 0.5


def test_a_space_that_is_too_small_is_told():
    task = task_of("parity", length=8, train_examples=200)
    with pytest.raises(InvalidValues, match=r"train_examples: found \d+ different examples"):
        task.dataset("train", 0)
    task = task_of("parity", length=8, train_examples=20, eval_examples=200)
    with pytest.raises(InvalidValues, match=r"eval_examples: found \d+ .* for validation"):
        task.dataset("validation", 0)


def test_first_equal():
    rows = torch.randint(5, (50, 3, 7), generator=rng())
    for row, found in zip(rows.flatten(0, 1), first_equal(rows).flatten(0, 1), strict=True):
        assert found.tolist() == [row.tolist().index(x) for x in row.tolist()]


# Levels.


@pytest.mark.parametrize(("draws", "values"), [(1, 4), (4, 1), (2, 2), (5, 3), (3, 6), (8, 2)])
def test_the_most_frequent_value_by_enumeration(draws, values):
    shares = [max(Counter(x).values()) / draws for x in product(range(values), repeat=draws)]
    assert most_frequent(draws, values) == pytest.approx(mean(shares), abs=1e-6)


@pytest.mark.parametrize(("draws", "values"), [(255, 126), (1023, 15)])
def test_the_most_frequent_of_many(draws, values):
    """2000 samples. Odds of a false alarm: 6e-7."""
    drawn = torch.randint(values, (2000, draws), generator=rng())
    shares = [max(Counter(row).values()) / draws for row in drawn.tolist()]
    assert abs(mean(shares) - most_frequent(draws, values)) < 5 * stdev(shares) / 2000**0.5


@pytest.mark.parametrize(
    ("count", "keys", "values", "noise"),
    [(3, 2, 3, 0.0), (8, 4, 4, 0.0), (64, 8, 8, 0.2), (10, 3, 5, 0.8), (20, 30, 6, 0.5)],
)
def test_the_plateau_of_recall_by_guessing(count, keys, values, noise):
    """Guess the value that most keys seen have, in 3000 sequences. Odds of a false alarm: 6e-7."""
    expected = value_of_any_key(count, keys, values, noise)
    sequences, asked = pairs.single(3000, count, keys, values, noise, 4, rng())
    # A ratio of sums is right if these differences have a mean of zero.
    excess = []
    for row, probed in zip(sequences.tolist(), asked.tolist(), strict=True):
        known: dict[int, int] = {}
        hits = total = 0
        for i in range(0, len(row), 2):
            if probed[i + 1]:
                hits += row[i + 1] == Counter(known.values()).most_common(1)[0][0]
                total += 1
            if row[i] < keys:
                known[row[i]] = row[i + 1]
        excess.append(hits - expected * total)
    assert abs(mean(excess)) < 5 * stdev(excess) / 3000**0.5


def test_memorization_cannot_know_keys_that_training_lacks():
    """The share of test probes that were trained on, of 30 seeds. Odds of a false alarm: 1e-5."""
    task = task_of("memorization", length=32, vocab=512, train_examples=16, eval_examples=100)
    shares = []
    for seed in range(30):
        shown = {*task.dataset("train", seed).tokens[:, ::2].flatten().tolist()}
        asked = task.dataset("test", seed).tokens[:, ::2].flatten().tolist()
        shares.append(mean(key in shown for key in asked))
    ceiling = task.levels("test").ceiling
    assert ceiling is not None
    assert 0.6 < ceiling < 0.7
    assert abs(mean(shares) - ceiling) < 5 * stdev(shares) / 30**0.5


def test_the_ceiling_over_the_settings_of_mad():
    vocabularies = (256, 512, 1024, 2048, 4096, 8192)
    cls = registry.find("task", "memorization")
    ceilings = [cls(vocab=vocab).levels("test").ceiling for vocab in vocabularies]  # pyright: ignore
    assert ceilings == sorted(ceilings, reverse=True)
    assert 0.91 < mean(ceilings) < 0.92


# What is drawn. Shares are within 5 standard deviations: odds of a false alarm of 6e-7 each.


def check_share(found: torch.Tensor, share: float) -> None:
    spread = (share * (1 - share) / found.numel()) ** 0.5
    assert abs(found.double().mean() - share) < 5 * spread


def test_the_last_key_is_any_of_those_seen():
    """Three pairs, so that two keys are different or the same; whichever came first wins half."""
    sequences, _ = pairs.single(4000, 3, 5, 5, 0.0, 0, rng())
    first, second, last = sequences[:, ::2].unbind(1)
    check_share(first == second, 1 / 5)
    check_share((last == first)[first != second], 1 / 2)


@pytest.mark.parametrize("noise", [0.2, 0.8])
def test_noise_is_as_frequent_as_told(noise):
    """The last pair never is, one other never is, and which one is left to chance."""
    sequences, _ = pairs.single(4000, 9, 3, 3, noise, 2, rng())
    noisy = sequences[:, ::2] >= 6
    assert not noisy[:, -1].any()
    assert not noisy[:, :-1].all(1).any()
    # Pairs of a row depend on each other, so each is checked alone.
    for place in noisy[:, :-1].unbind(1):
        check_share(place, noise * 7 / 8)


def test_motifs_have_every_size_and_different_tokens():
    found = pairs.motifs(6000, (1, 2, 3), 4, 8, rng())
    sizes = (found >= 0).sum(1)
    for size in (1, 2, 3):
        check_share(sizes == size, 1 / 3)
    triples = Counter(map(tuple, found[sizes == 3].tolist()))
    assert {*triples} == {*permutations(range(4, 8), 3)}


def test_the_probe_of_fuzzy_recall_stands_anywhere_before():
    """In 3000 sequences of 98 tokens, of pairs of two: its first half as often as the second."""
    sequences, _ = pairs.fuzzy(3000, 98, (1000, 1000), (1,), (1,), rng())
    keys = sequences[:, -2]
    where = (sequences == keys[:, None]).byte().argmax(1)
    # Pairs begin at 2, 4, ... 94 after the fill; the probe may be at each of them.
    assert (sequences[:, :2] == 2000).all()
    check_share(where < 49, 24 / 47)


def test_blanks_stand_before_any_token():
    """Of 3 tokens and 7 blanks: how many are before the first is binomial."""
    tokens, _ = among_blanks(5000, 14, 3, 5, rng())
    before = (tokens != 5).byte().argmax(1)
    for count in range(8):
        check_share(before == count, comb(7, count) * 2 ** (7 - count) / 3**7)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("in_context_recall", {"length": 15}, "length: expected a multiple of 2"),
        ("in_context_recall", {"evaluate_at": [31]}, "expected even lengths .* got length 31"),
        ("in_context_recall", {"evaluate_at": [16]}, "evaluate_at: expected each length once"),
        ("in_context_recall", {"train_on": "some"}, "train_on: expected 'probes' or 'all'"),
        ("noisy_recall", {"vocab": 7}, "vocab: expected at least noise_vocab"),
        ("noisy_recall", {"noise": 1.0}, "noise: expected less than 1"),
        ("fuzzy_recall", {"vocab": 6}, "vocab: expected at least 7 for motifs of 3"),
        ("fuzzy_recall", {"length": 17}, "expected at least 18 tokens for three pairs"),
        ("fuzzy_recall", {"key_motif": 5}, "vocab: expected at least 11"),
        ("selective_copying", {"copy_tokens": 8}, r"expected at least 2 \* copy_tokens"),
        ("selective_copying", {"evaluate_at": [8]}, "got length 8"),
        ("memorization", {"evaluate_at": [9]}, "expected even lengths, got length 9"),
        ("compression", {"evaluate_at": [1]}, "expected at least 2 tokens, got length 1"),
        ("permutation", {"degree": 7}, "degree: expected at most 6"),
        ("parity", {"evaluate_at": [0]}, "evaluate_at: expected at least 1"),
    ],
)
def test_refuses(kind, fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        task_of(kind, **fields)


def rows(heading: str) -> list[list[str]]:
    """The table of docs/tasks.md whose heading begins so, code marks taken off."""
    lines = iter(DOC.read_text().splitlines())
    assert any(line.startswith(heading) for line in lines)
    next(lines)
    table = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_documented_levels_are_those_of_the_defaults():
    told = {kind: levels for kind, _, _, *levels in rows("| kind | what it asks")}
    assert {*KINDS} <= {*told}
    for kind, shown in told.items():
        levels = parsing.component("task", kind).levels("test")  # pyright: ignore
        known = (levels.chance, levels.plateau, levels.ceiling)
        assert shown == ["-" if x is None else f"{x:.3g}" for x in known], kind


def test_documented_grid_can_be_asked_for():
    """Each value of a factor beside the defaults, which are the first ones."""
    found = rows("| kind | field | values")
    assert len(found) > 10
    for kind, field, values in found:
        asked = yaml.safe_load(f"[{values}]")
        default = registry.find("task", kind).model_fields[field].default
        assert asked[0] == default
        for value in asked:
            parsing.component("task", {"kind": kind, field: value})

"""What is hidden in a long text is read back from its bytes; the metric exact, by hand."""

import re
from collections import defaultdict
from itertools import combinations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from miras_search import parsing
from miras_search.data.haystack import documentation, home, noise, running_text
from miras_search.data.world import PLACES, THINGS
from miras_search.errors import InvalidValues, UserError
from miras_search.lit import MemoryModule, TaskData
from miras_search.recipe import Recipe
from miras_search.tasks.base import IGNORE
from miras_search.tasks.multi_hop import MultiHop
from miras_search.tasks.needle import Needle
from miras_search.testing import tasks as suite
from miras_search.variant import Variant

NEEDLE = re.compile(rb"One of the special magic (number|uuid)s for ([a-z]+-[a-z]+) is: (\S+)\. ")
QUESTION = re.compile(rb"The special magic (\w+) for (\S+) mentioned in the provided text is: $")
NOISE = (
    b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def read(tokens, targets):
    """The bytes before the answer, and the answer, which is all that is scored."""
    text = bytes(tokens.tolist())
    first = int((targets != IGNORE).nonzero()[0]) + 1
    assert bytes(targets[first - 1 : -1].tolist()) == text[first:]
    assert targets[-1] == IGNORE
    assert (targets[: first - 1] == IGNORE).all()
    return text[:first], text[first:]


def text_of(split):
    """Twice, because haystacks run over its end."""
    return running_text(None)[split if split in ("train", "validation") else "test"] * 2


def needles(task, tokens, targets):
    """Read one example: the haystack, and for each key, the asked one first, its value and the
    bytes of the haystack before it."""
    text, answer = read(tokens, targets)
    question = QUESTION.search(text)
    context = text[: question.start()]
    found = {
        match[2]: (match[3], len(NEEDLE.sub(b"", context[: match.start()])))
        for match in NEEDLE.finditer(context)
    }
    assert len(found) == task.keys
    what = "uuid" if task.form == "uuid" else "number"
    assert {match[1] for match in NEEDLE.finditer(context)} == {question[1]} == {what.encode()}
    form = UUID if what == "uuid" else rb"[1-9][0-9]{%d}" % (task.digits - 1)
    assert all(re.fullmatch(form, value) for value, _ in found.values())
    asked = question[2]
    assert found[asked][0] == answer
    return NEEDLE.sub(b"", context), {asked: found.pop(asked)} | found


def is_first_after(haystack, place, share, ending):
    """Whether `place` is where `ending` ends first, at or after a share of the haystack."""
    begins = [i for i in range(len(haystack)) if haystack.startswith(ending, i)]
    start = round(share * (len(haystack) - len(ending)))
    return place == min(i for i in begins if i >= start) + len(ending)


@pytest.mark.parametrize("keys", [1, 3])
@pytest.mark.parametrize("form", ["passkey", "number", "uuid"])
def test_needles_follow_the_definition(form, keys):
    fields = {"keys": keys, "digits": 4, "depths": 5, "grid": True, "evaluate_at": (900,)}
    fields |= {"train_examples": 25, "eval_examples": 15, "further_examples": 10}
    task = Needle(form=form, length=640, **fields)
    assert task.evaluations[:3] == ("900", "640@0.00", "640@0.25")
    assert task.evaluations[-1] == "900@1.00"
    seen = defaultdict(set)
    for split in task.splits:
        text = b"" if form == "passkey" else text_of(split)
        length, _, depth = (split if split in task.evaluations else "640").partition("@")
        for tokens, targets in suite.examples(task, split, 0):
            assert len(tokens) == int(length)
            haystack, found = needles(task, tokens, targets)
            (_, own), *others = found.values()
            if form == "passkey":
                assert haystack in NOISE * 12
                places = [own, *(place for _, place in others)]
                assert all(haystack[:place].endswith(b". ") for place in places)
                if depth:
                    assert is_first_after(haystack, own, float(depth), b". ")
                continue
            assert haystack in text
            steps = [0.0, 0.25, 0.5, 0.75, 1.0]
            (at,) = [s for s in steps if is_first_after(haystack, own, s, b" ")]
            assert not depth or at == float(depth)
            seen[split].add(at)
            steps.remove(at)
            for _, place in others:
                assert any(is_first_after(haystack, place, step, b" ") for step in steps)
    # One of five is missed by 25 drawn at random in 2 % of seeds, and this is one seed.
    assert form == "passkey" or len(seen["train"]) == 5


def test_needles_of_noise_are_at_every_sentence():
    """One of about 20 sentences is missed by 1000 needles with odds below 1e-18."""
    task = Needle(form="passkey", length=512, digits=4, train_examples=1000)
    seen = set()
    for tokens, targets in suite.examples(task, "train", 0):
        haystack, found = needles(task, tokens, targets)
        [(_, place)] = found.values()
        seen.add((haystack.count(b". "), haystack[:place].count(b". ")))
    for sentences in {total for total, _ in seen}:
        assert {at for total, at in seen if total == sentences} <= {*range(1, sentences + 1)}
    most = max(total for total, _ in seen)
    assert {at for _, at in seen} >= {*range(1, most)}


def test_no_key_or_value_is_in_two_parts():
    task = Needle.model_validate(Needle.small | {"train_examples": 2000})
    seen: dict[bytes, str] = {}
    for seed in (0, 1):
        for split in task.splits:
            part = "grid" if "@" in split else split
            for tokens, targets in suite.examples(task, split, seed):
                for key, (value, _) in needles(task, tokens, targets)[1].items():
                    assert seen.setdefault(key, part) == part
                    assert seen.setdefault(value, part) == part
    assert {*seen.values()} == {"train", "validation", "test", "400", "grid"}


def test_a_million_bytes_are_written_when_asked_for():
    task = Needle(length=1_000_000, form="uuid", evaluate_at=(200_000,))
    haystack, found = needles(task, *task.dataset("test", 0)[499])
    [(_, place)] = found.values()
    assert min(abs(place / len(haystack) - step / 39) for step in range(40)) < 1e-3
    # Longer than all the text held out: it repeats.
    text = running_text(None)["test"]
    assert len(haystack) > 2 * len(text)
    assert haystack[-len(text) :] == haystack[-2 * len(text) : -len(text)]


@pytest.mark.parametrize("kind", ["needle", "multi_hop"])
def test_items_do_not_depend_on_what_was_asked_for_before(kind):
    task = suite.small(kind)
    forward = [*suite.examples(task, "train", 0)]
    again = task.dataset("train", 0)
    for index in (199, 7, 0, -1):
        for one, other in zip(again[index], forward[index], strict=True):
            assert torch.equal(one, other)
    with pytest.raises(IndexError):
        again[200]


@pytest.mark.parametrize("kind", ["needle", "multi_hop"])
def test_held_out_sets_do_not_depend_on_the_seed(kind):
    one, two = (suite.fingerprint(suite.small(kind), seed) for seed in (0, 1))
    assert [split for split in one if one[split] != two[split]] == ["train"]


def test_homes_have_their_shares():
    """A sixteenth of 16,000 contents in each held-out part, within 5 standard deviations."""
    homes = [home(b"%d" % i) for i in range(16_000)]
    assert {*homes} == {"train", "validation", "test", "further", "grid"}
    for part in ("validation", "test", "further", "grid"):
        assert homes.count(part) == pytest.approx(1000, abs=5 * 31)


def test_running_text_is_documentation_in_parts():
    source = b'def f():\n    """Say  what\n    it does."""\n\nx = """and\tmore""" + """no\\\\n"""\n'
    assert documentation(source) == b"Say what it does. and more"
    parts = [*running_text(None).values()]
    assert all(part.split() and part == b" ".join([*part.split(), b""]) for part in parts)
    assert all(part[:60] not in other for part in parts for other in parts if other is not part)
    assert noise(200) in NOISE * 4


def test_haystacks_are_of_the_files_of_their_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(30):
        (tmp_path / f"{index}.txt").write_text(f"w{index} \n" * 40)
    task = Needle(form="number", length=300, files="*.txt", digits=4, train_examples=100)
    parts = {"train": set(), "validation": set(), "test": set()}
    for split, words in parts.items():
        for example in suite.examples(task, split, 0):
            words |= {*needles(task, *example)[0].split()[1:]}  # the first may be cut
    assert not parts["train"] & parts["validation"]
    assert not parts["train"] & parts["test"]
    assert not parts["validation"] & parts["test"]
    (tmp_path / "0.txt").unlink()
    with pytest.raises(UserError, match="matches no file"):
        parsing.component("task", {"kind": "multi_hop", "files": "0.txt"}).dataset("test", 0)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("needle", {"length": 150}, "150 bytes are too few .* expected at least 173"),
        ("needle", {"evaluate_at": [150]}, "150 bytes are too few"),
        ("needle", {"grid": True}, "1024 bytes are too few .* expected at least 1109"),
        ("needle", {"evaluate_at": [1024]}, "evaluate_at: expected each length once"),
        ("needle", {"keys": 41, "length": 8192}, "41 keys need as many depths"),
        ("needle", {"digits": 2}, "digits: expected at least 3"),
        ("needle", {"form": "word"}, "form: expected 'passkey', 'number' or 'uuid'"),
        ("multi_hop", {"hops": 4}, "hops: expected 1, 2 or 3"),
        ("multi_hop", {"hops": 3}, r"facts: expected the fewest, at least 3 .* got \[2, 10\]"),
        ("multi_hop", {"facts": [9, 3]}, r"facts: expected the fewest.* and the most, got"),
        ("multi_hop", {"facts": [1, 3]}, "facts"),
        ("multi_hop", {"facts": [2, 68]}, "1024 bytes are too few"),
        ("multi_hop", {"evaluate_at": [2048, 2048]}, "evaluate_at: expected each length once"),
    ],
)
def test_refused(kind, fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        parsing.component("task", {"kind": kind, **fields})


def test_needle_levels():
    assert Needle(digits=4, length=256).levels("test").chance == 1 / 9000
    assert Needle(keys=4).levels("test").plateau == 1 / 4
    assert Needle().levels("test").plateau is None


FACT = re.compile(
    r"(?:Mary|John|Sandra|Daniel) (?:(?:went to|picked up|dropped) the "
    r"(?:kitchen|hallway|garden|office|bathroom|bedroom|football|apple|milk)\.)"
)


class Told:
    """What facts say, by looking back from a moment: nothing is updated as they are told."""

    def __init__(self, facts):
        self.facts = [(fact.split()[0], fact.split()[1], fact[:-1].split()[-1]) for fact in facts]

    def place(self, person, end):
        """Where someone was after `end` facts; None if nothing says."""
        moves = [where for who, did, where in self.facts[:end] if (who, did) == (person, "went")]
        return moves[-1] if moves else None

    def last(self, thing, end):
        """When something was last picked up or dropped, by whom, and which of the two."""
        acts = [(i, who, did) for i, (who, did, it) in enumerate(self.facts[:end]) if it == thing]
        return acts[-1] if acts else (None, None, None)

    def where(self, thing, end):
        moment, who, did = self.last(thing, end)
        if moment is None:
            return None
        return self.place(who, moment if did == "dropped" else end)

    def answer(self, question):
        end = len(self.facts)
        if match := re.fullmatch(r"Where is (\w+)\?", question):
            return self.place(match[1], end)
        if match := re.fullmatch(r"Where is the (\w+)\?", question):
            return self.where(match[1], end)
        match = re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question)
        trail = []
        for moment in range(end + 1):
            place = self.where(match[1], moment)
            if place and trail[-1:] != [place]:
                trail.append(place)
        if trail.count(match[2]) != 1 or trail[0] == match[2]:
            return None
        return trail[trail.index(match[2]) - 1]

    def check_possible(self):
        for moment, (who, did, what) in enumerate(self.facts):
            here, (_, holder, last) = self.place(who, moment), self.last(what, moment)
            if did == "went":
                assert here != what
            elif did == "picked":
                assert here is not None
                assert last in (None, "dropped")
                assert self.where(what, moment) in (None, here)
            else:
                assert (holder, last) == (who, "picked")


def stories(task, split, seed=0):
    """Facts, question, answer and the text without facts of each example."""
    for tokens, targets in suite.examples(task, split, seed):
        text, answer = read(tokens, targets)
        assert len(text) + len(answer) == int(split if split in task.evaluations else task.length)
        # A text may be cut within a character; and it may ask "Where is", but not at its end.
        told = text.decode(errors="replace")
        context, question, rest = re.fullmatch(r"(.*)(Where [^?]*\?)( )", told, re.DOTALL).groups()
        assert rest == " "
        facts = FACT.findall(context)
        bare = re.sub(rb"(?:%s) " % FACT.pattern.encode(), b"", text[: text.rindex(b"Where ")])
        yield facts, question, answer.decode(), bare


@pytest.mark.parametrize(("hops", "facts"), [(1, (2, 10)), (2, (2, 20)), (3, (4, 20))])
def test_stories_follow_the_definition(hops, facts):
    task = MultiHop(
        hops=hops,
        facts=facts,
        length=800,
        evaluate_at=(1500,),
        train_examples=300,
        eval_examples=50,
        further_examples=20,
    )
    counts, done = set(), set()
    for split in task.splits:
        text = text_of(split)
        for told, question, answer, bare in stories(task, split):
            assert Told(told).answer(question) == answer
            Told(told).check_possible()
            assert bare in text
            assert bare.endswith(b" ")
            counts.add(len(told))
            done |= {fact.split()[1] for fact in told}
    assert done == ({"went"} if hops == 1 else {"went", "picked", "dropped"})
    # Of at most 19 numbers one is missed by 300 examples with odds below 1e-5.
    assert counts == {*range(facts[0], facts[1] + 1)}


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_an_answer_takes_as_many_facts_as_hops(hops):
    """Fewer facts, whichever they are, tell nothing; some facts of that number tell the answer."""
    task = MultiHop(hops=hops, facts=(4, 7), length=400, train_examples=100)
    for told, question, answer, _ in stories(task, "train"):
        for few in combinations(told, hops - 1):
            assert Told(few).answer(question) is None
        assert answer in [Told(few).answer(question) for few in combinations(told, hops)]


def test_no_story_is_in_two_parts():
    task = MultiHop(
        hops=2, facts=(2, 3), length=200, train_examples=2000, eval_examples=80, evaluate_at=(300,)
    )
    seen = {}
    for seed in (0, 1):
        for split in task.splits:
            for told, question, *_ in stories(task, split, seed):
                assert seen.setdefault((*told, question), split) == split


@pytest.mark.parametrize(("hops", "facts"), [(1, 2), (2, 2), (3, 3)])
def test_the_shortest_stories_suffice_for_every_part(hops, facts):
    task = MultiHop(hops=hops, facts=(facts, facts), length=256, evaluate_at=(300,))
    for split in task.splits:
        [*_] = task.dataset(split, 0)[0]


@pytest.mark.parametrize(("hops", "better"), [(1, "last"), (2, "last"), (3, "any")])
def test_plateau_is_the_better_of_two_habits(hops, better):
    """Against 1500 other stories, within 5 standard deviations of both means."""
    task = MultiHop(hops=hops, facts=(3, 8), length=512, train_examples=1500)
    right = {"any": [], "last": []}
    for told, question, answer, _ in stories(task, "train"):
        places = [re.search(r"went to the (\w+)\.", fact) for fact in told]
        named = [found[1] for found in places if found and f"the {found[1]}?" not in question]
        assert answer in named
        right["any"].append(1 / len(set(named)))
        right["last"].append(float(named[-1] == answer))
    rates = {name: torch.tensor(values) for name, values in right.items()}
    spread = float(rates[better].std()) * (1 / 1500 + 1 / 1000) ** 0.5
    levels = task.levels("test")
    assert levels.plateau == pytest.approx(float(rates[better].mean()), abs=5 * spread)
    assert levels.chance == 1 / len(PLACES) < levels.plateau < 1


def example_of(cls):
    """The text drawn in a docstring, whose lines are broken at spaces."""
    block = re.search(r"\n\n((?: {8}.*\n)+)\n", cls.__doc__)[1]
    return " ".join(line.strip() for line in block.strip("\n").split("\n"))


def test_the_needle_in_the_docstring_is_an_example():
    task = Needle(form="passkey", length=192, digits=4)
    tokens, _ = task.dataset("train", 0)[0]
    assert example_of(Needle) == bytes(tokens.tolist()).decode()


def test_the_story_in_the_docstring_is_an_example():
    """Its text depends on the Python that wrote it."""
    text = example_of(MultiHop)
    assert len(text) == 256
    told, question, answer = re.fullmatch(r"(.*)(Where [^?]*\?) (\w+)", text).groups()
    facts = FACT.findall(told)
    assert len(facts) == 4
    assert any(thing in question for thing in THINGS)
    assert Told(facts).answer(question) == answer


class Fixed(torch.nn.Module):
    """Says of each token what a table gives for it."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, tokens):
        return torch.nn.functional.one_hot(self.table[tokens], 256).float(), ()


VARIANT = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}


def test_exact_against_a_hand_computation():
    """Examples of unequal numbers of scored tokens, in batches that end unevenly."""
    task = {"kind": "needle", "form": "passkey", "length": 192, "digits": 4}
    recipe = Recipe.from_dict({"task": task, "size": {"width": 8, "layers": 1}})
    module = MemoryModule(Variant.from_dict(VARIANT | {"heads": 2}), recipe, 1e-3)
    table = torch.arange(256)
    table[7] = 0  # said wrongly, wherever 7 is expected after 7
    module.model = Fixed(table)
    rows = [
        ([1, 2, 3, 4], [1, IGNORE, IGNORE, IGNORE], True),
        ([1, 7, 3, 4], [1, 7, 3, 4], False),
        ([1, 7, 3, 4], [1, IGNORE, 3, 4], True),
        ([7, 7, 7, 7], [IGNORE, IGNORE, 7, IGNORE], False),
        ([5, 6, 5, 6], [5, 6, 5, 6], True),
    ]
    tokens, targets, right = map(torch.tensor, zip(*rows, strict=True))
    for batch in (1, 2, 3, 5):
        module.on_validation_epoch_start()
        for index, both in enumerate(DataLoader(TensorDataset(tokens, targets), batch)):
            module.validation_step(both, index)
        found = module.metrics()
        assert found["exact"] == pytest.approx(float(right.float().mean()))
        assert found["accuracy"] == pytest.approx(11 / 13)
    # Nothing is left of it in the next evaluation: three of the examples.
    module.on_validation_epoch_start()
    module.validation_step((tokens[1:4], targets[1:4]), 0)
    assert module.metrics()["exact"] == pytest.approx(1 / 3)
    assert module.metrics()["accuracy"] == pytest.approx(6 / 8)  # 3 of 4, 3 of 3, 0 of 1


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [  # of 256 tokens: as many as in training, or 8192 if these are more
        (48, {"train": 48, "validation": 48, "test": 48, "400": 30, "1024": 12, "20000": 1}),
        (8, {"train": 8, "validation": 32, "test": 32, "400": 20, "1024": 8, "20000": 1}),
    ],
)
def test_tokens_of_a_batch(batch, sizes):
    task = Needle(length=256, digits=4, evaluate_at=(400, 1024, 20000), further_examples=60)
    data = TaskData(task, batch, seed=0)
    assert {split: len(next(iter(data.loader(split)))[0]) for split in task.splits} == sizes

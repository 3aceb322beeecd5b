"""Streams replayed from their definition, the accuracy matrix by hand."""

import dataclasses
import io
import random
from collections import Counter
from itertools import pairwise
from math import sqrt
from statistics import mean

import pytest
import study_samples as samples
import torch
from of_tasks import check_all, check_elsewhere, run
from rich.console import Console

from miras_search import parsing
from miras_search.errors import InvalidValues
from miras_search.nn.backbone import Backbone
from miras_search.recipe import Recipe
from miras_search.report import continual
from miras_search.report.html import write_report
from miras_search.report.leaderboard import best_per_variant, terminal
from miras_search.size import Size
from miras_search.tasks.base import IGNORE
from miras_search.tasks.continual import Continual
from miras_search.testing import tasks as suite

SMALL = {"train_examples": 150, "eval_examples": 40, "evaluate_episodes": 4}
STREAMS = {
    "facts": {"stream": "facts", "items": 3, "questions": 5, "vocab": 64, **SMALL},
    "long facts": {"stream": "facts", "items": 2, "cue": 2, "shots": 2, "vocab": 64, **SMALL},
    "classes": {
        "stream": "classes",
        "items": 2,
        "cue": 3,
        "shots": 9,
        "noise": 0.1,
        "vocab": 65,
        **SMALL,
    },
    "domains": {"stream": "domains", "items": 6, "cue": 5, "shots": 2, "vocab": 20, **SMALL},
    "noisy domains": {
        "stream": "domains",
        "items": 8,
        "cue": 7,
        "shots": 4,
        "noise": 0.2,
        "vocab": 64,
        **SMALL,
    },
    "mixed": {
        "stream": "mixed",
        "items": 3,
        "cue": 5,
        "shots": 9,
        "noise": 0.1,
        "vocab": 65,
        **SMALL,
    },
}
LANGUAGES = {"domains": {1, 2, 3, 4}, "noisy domains": {1, 2, 3, 4}, "mixed": {3}}
"""Which of four episodes are one, by the stream."""


def batched(items, size):
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]


def continual_task(**fields) -> Continual:
    task = parsing.component("task", {"kind": "continual", **fields})
    assert isinstance(task, Continual)
    return task


@pytest.fixture(params=STREAMS)
def task(request) -> Continual:
    return continual_task(**STREAMS[request.param])


def test_the_suite_holds(task):
    check_all(task)


def test_another_process_makes_the_same_examples():
    check_elsewhere(*({"kind": "continual", **fields} for fields in STREAMS.values()))


def test_the_example_of_the_docstring_is_real():
    lines = [line.split() for line in (Continual.__doc__ or "").splitlines()]
    told = {line[0]: line[1:] for line in lines if line and line[0] in ("token", "target")}
    tokens, targets = continual_task(episodes=2, items=2, questions=2).dataset("train", 0)[0]
    assert [x for x in told["token"] if x != "|"] == [*map(str, tokens.tolist())]
    named = ["." if target == IGNORE else str(target) for target in targets.tolist()]
    assert [x for x in told["target"] if x != "|"] == named


def read(task, tokens, targets):
    """The lessons of each episode, and (episodes read, cue, targets of it) of each question."""
    width, per_episode = task.cue + 1, task.items * task.shots
    lessons, questions = [], []
    for told, wanted in zip(
        batched(tokens.tolist(), width), batched(targets.tolist(), width), strict=True
    ):
        if told[0] == 0:
            questions.append((-(-len(lessons) // per_episode), told[1:], wanted[1:]))
            assert len(lessons) % per_episode == 0
            assert wanted[0] == IGNORE
        else:
            lessons.append(told)
            assert set(wanted) == {IGNORE}
    return batched(lessons, per_episode), questions


def prototypes(task, lessons):
    """Answer to episode and most frequent cue tokens, where answers and tokens are as promised."""
    known = {}
    keys, values = range(1, task.vocab // 2), range(task.vocab // 2, task.vocab)
    for episode, told in enumerate(lessons):
        by_answer = {}
        for *cue, answer in told:
            assert {*cue} <= {*keys}
            assert answer in values
            by_answer.setdefault(answer, []).append(cue)
        assert [len(cues) for cues in by_answer.values()] == [task.shots] * task.items
        assert not {*by_answer} & {*known}
        for answer, cues in by_answer.items():
            known[answer] = (
                episode,
                [Counter(x).most_common(1)[0][0] for x in zip(*cues, strict=True)],
            )
    for place in zip(*(prototype for _, prototype in known.values()), strict=True):
        assert len({*place}) == len(place)
    return known


def check_asked(task, split, read_then, episodes):
    """Who is asked when: `episodes` says which episode (from 0) each question is about."""
    if split in task.cells:
        seen, on = task.cells[split]
        assert read_then == [seen] * task.questions
        assert episodes == [on - 1] * task.questions
    else:
        assert Counter(episodes) == dict.fromkeys(range(task.episodes), task.questions)
        assert all(episode < seen for episode, seen in zip(episodes, read_then, strict=True))


@pytest.mark.parametrize("name", ["facts", "long facts", "classes"])
def test_items_follow_the_definition(name):
    """Every token is accounted for; noise is counted. Odds of a false alarm: 1e-6."""
    task = continual_task(**STREAMS[name])
    tokens_seen = tokens_other = 0
    for split in task.splits:
        for example in suite.examples(task, split, 0):
            lessons, questions = read(task, *example)
            assert len(lessons) == (task.cells[split][0] if split in task.cells else task.episodes)
            known = prototypes(task, lessons)
            asked = Counter()
            for _, cue, wanted in questions:
                assert {*wanted[:-1]} <= {IGNORE}
                asked[wanted[-1]] += 1
                tokens_seen += len(cue)
                tokens_other += sum(x != y for x, y in zip(cue, known[wanted[-1]][1], strict=True))
            episodes = [known[wanted[-1]][0] for _, _, wanted in questions]
            check_asked(task, split, [seen for seen, _, _ in questions], episodes)
            # The n-th question is about item n modulo items: as even as can be.
            assert max(asked.values()) == -(-task.questions // task.items)
    share = task.noise * (1 - 1 / (task.vocab // 2 - 1))
    spread = sqrt(share * (1 - share) / tokens_seen)
    assert abs(tokens_other / tokens_seen - share) <= 5 * spread


def cycle(text):
    """The most frequent next token of each."""
    following = {}
    for now, then in pairwise(text):
        following.setdefault(now, Counter())[then] += 1
    return {now: counts.most_common(1)[0][0] for now, counts in following.items()}


def test_domains_follow_the_definition():
    """Without noise, so that nothing is left to chance: every step is along a cycle."""
    task = continual_task(**STREAMS["domains"])
    starts = Counter()
    for split in task.splits:
        for example in suite.examples(task, split, 0):
            lessons, questions = read(task, *example)
            texts = [[x for lesson in told for x in lesson] for told in lessons]
            languages = [cycle(text) for text in texts]
            for text, steps in zip(texts, languages, strict=True):
                assert len(steps) == task.items
                assert {*text} <= {*range(1, task.vocab)}
                assert all(steps[now] == then for now, then in pairwise(text))
                assert [*text[: task.items]] == [*dict.fromkeys(text)]  # one cycle, not several
            for seen, cue, wanted in questions:
                text = [*cue, wanted[-1]]
                assert [*wanted[:-1]] == [*cue[1:]]
                fits = [all(s.get(x) == y for x, y in pairwise(text)) for s in languages[:seen]]
                on = task.cells.get(split, (seen, None))[1]
                assert any(fits) if on is None else on > seen or fits[on - 1]
            if split == "after1-on1":
                starts.update(texts[0].index(cue[0]) for _, cue, _ in questions)
    assert {*starts} == {*range(task.items)}


def test_noise_of_domains_is_what_it_says():
    """A step is off the cycle with probability noise (1 - 1 / items). Odds of an alarm: 1e-6."""
    task = continual_task(**STREAMS["noisy domains"])
    steps = off = 0
    for example in suite.examples(task, "after2-on1", 0):
        lessons, questions = read(task, *example)
        language = cycle([x for lesson in lessons[0] for x in lesson])
        for _, cue, wanted in questions:
            text = [*cue, wanted[-1]]
            steps += len(text) - 1
            off += sum(language[now] != then for now, then in pairwise(text))
    share = task.noise * (1 - 1 / task.items)
    assert abs(off / steps - share) < 5 * sqrt(share * (1 - share) / steps)


def test_questions_are_spread_over_all_later_times():
    """One about the first of 3 episodes comes after each with odds 1/3. A false alarm: 1e-6."""
    task = continual_task(**STREAMS["facts"])
    times = Counter()
    for example in suite.examples(task, "train", 0):
        lessons, questions = read(task, *example)
        known = prototypes(task, lessons)
        times.update(seen for seen, _, wanted in questions if known[wanted[-1]][0] == 0)
    total = task.train_examples * task.questions
    assert sum(times.values()) == total
    for seen in (1, 2, 3):
        assert abs(times[seen] / total - 1 / 3) < 5 * sqrt(2 / 9 / total)


def test_cells_are_about_the_same_streams(task):
    """Of any two cells, the shorter reading begins the longer, and questions depend on j alone."""
    lesson = task.items * task.shots * (task.cue + 1)
    whole = task.dataset(f"after{SMALL['evaluate_episodes']}-on1", 0)
    asked = {}
    for split, (seen, on) in task.cells.items():
        cell = task.dataset(split, 0)
        assert torch.equal(cell.tokens[:, : seen * lesson], whole.tokens[:, : seen * lesson])
        questions = cell.tokens[:, seen * lesson :], cell.targets[:, seen * lesson :]
        first = asked.setdefault(on, questions)
        assert all(map(torch.equal, first, questions))
    assert len(asked) == SMALL["evaluate_episodes"]
    [name] = [name for name, fields in STREAMS.items() if continual_task(**fields) == task]
    languages = LANGUAGES.get(name, set())
    ahead = {(on - 1, on) for on in languages if on > 1}
    assert {*task.cells.values()} == {(i, j) for i in range(1, 5) for j in range(1, i + 1)} | ahead


def test_a_mixed_stream_teaches_facts_classes_and_a_language_in_turn():
    """Facts are exact and classes are not, of the language every token is one of `items`. That no
    token of 40 streams of 9 x 15 were replaced has odds below 1e-200."""
    task = continual_task(**STREAMS["mixed"])
    replaced = 0
    for read_to in (1, 2, 3, 4):
        for on in range(1, read_to + 1):
            for example in suite.examples(task, f"after{read_to}-on{on}", 0):
                lessons, questions = read(task, *example)
                known = prototypes(task, [told for i, told in enumerate(lessons) if i != 2])
                for told in (lessons[i] for i in (0, 3) if i < read_to):
                    assert all(known[answer][1] == cue for *cue, answer in told)
                for *cue, answer in lessons[1] if read_to > 1 else ():
                    replaced += sum(x != y for x, y in zip(cue, known[answer][1], strict=True))
                language = {x for lesson in lessons[2] for x in lesson} if read_to > 2 else set()
                assert len(language) in (0, task.items)
                for _, cue, wanted in questions:
                    if on == 3:
                        assert {*cue, *wanted} <= language
                        assert [*wanted[:-1]] == [*cue[1:]]
                    else:
                        assert {*wanted[:-1]} == {IGNORE}
                        assert known[wanted[-1]][0] == (on - 1 if on < 3 else 2)
                        assert on == 2 or known[wanted[-1]][1] == [*cue]
    assert replaced


def test_levels_of_a_mixed_stream_are_those_of_what_is_asked():
    task = continual_task(**STREAMS["mixed"])
    facts, classes, language = (task.levels(f"after3-on{on}") for on in (1, 2, 3))
    assert (facts.plateau, facts.ceiling) == (1 / 6, 1)
    assert classes == dataclasses.replace(facts, ceiling=1 - 0.1**5 * 2 / 3)
    assert language.plateau == 1 / 3
    assert task.levels("after2-on3") == dataclasses.replace(language, ceiling=None)
    # Facts are asked after 3, 6 or again 6 answers, classes after 6; of a language five tokens.
    expected = ((1 / 3 + 1 / 6 + 1 / 6) / 3 + 1 / 6 + 5 / 3) / 7
    assert task.levels("test").plateau == pytest.approx(expected)


def test_a_cell_is_what_a_carried_memory_says():
    task = continual_task(**STREAMS["domains"])
    space = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd", "chunk": 4}
    torch.manual_seed(0)
    model = Backbone(samples.Variant.from_dict(space), Size(width=8, layers=1), task.vocab)
    lesson = task.items * task.shots * (task.cue + 1)
    cells = {on: task.dataset(f"after3-on{on}", 0).tokens[:5].long() for on in (1, 2, 3)}
    state = None
    with torch.no_grad():
        for episode in cells[1][:, : 3 * lesson].split(lesson, 1):
            _, state = model(episode, state)
        for tokens in cells.values():
            carried, _ = model(tokens[:, 3 * lesson :], state)
            torch.testing.assert_close(carried, model(tokens)[0][:, 3 * lesson :])


def test_plateau_is_the_score_of_who_guesses_what_was_read():
    task = continual_task(**{**STREAMS["facts"], "train_examples": 2000})
    for split in ("train", "test", "after3-on2"):
        odds = []
        for example in suite.examples(task, split, 0):
            _, questions = read(task, *example)
            odds.append(mean(1 / (seen * task.items) for seen, _, _ in questions))
        wrong = abs(mean(odds) - task.levels(split).plateau)
        # The times are random; a mean of odds below 1/3 in so many examples is near.
        assert wrong < 5 / 3 / sqrt(len(odds) * task.questions)
    assert task.levels("after3-on2").plateau == 1 / 9
    assert task.levels("test").chance == 1 / 32


def test_ceiling_of_classes_bounds_who_knows_the_prototypes():
    """The nearest prototype of the episode falls short by the odds of a token of another class."""
    fields = {**STREAMS["classes"], "cue": 1, "noise": 0.5, "items": 4, "shots": 15, "vocab": 512}
    task = continual_task(**fields)
    rng, right = random.Random(0), []
    for example in suite.examples(task, "after1-on1", 0):
        lessons, questions = read(task, *example)
        known = prototypes(task, lessons)
        for _, cue, wanted in questions:
            agreeing = [answer for answer, (_, own) in known.items() if own == [*cue]]
            right.append(rng.choice(agreeing or [*known]) == wanted[-1])
    ceiling = task.levels("after1-on1").ceiling
    assert ceiling == 1 - 0.5 * 3 / 4
    # A replaced token is that of another class with odds below 3/255.
    assert abs(mean(right) - ceiling) < 5 * sqrt(ceiling * (1 - ceiling) / len(right)) + 0.01


def test_ceiling_of_a_language_is_unknown_before_it_is_read():
    task = continual_task(**STREAMS["noisy domains"])
    assert task.levels("after2-on2").ceiling == pytest.approx(0.825)
    assert task.levels("test").ceiling == pytest.approx(0.825)
    assert task.levels("after2-on3").ceiling is None
    assert task.levels("test").plateau == 1 / 8


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stream": "facts", "noise": 0.1}, "facts are exact: expected noise 0"),
        ({"stream": "classes"}, "classes are noisy: expected noise above 0"),
        ({"stream": "mixed"}, "classes are noisy: expected noise above 0"),
        ({"vocab": 48}, "a vocab of 48 has 23 tokens for cues, and a stream needs 24 different"),
        ({"stream": "domains", "items": 8, "vocab": 8}, "a language needs 8 different ones"),
        ({"items": 1, "episodes": 2, "vocab": 16}, "2352 streams, too few for 21500 examples"),
        ({"stream": "tasks"}, "stream: expected 'facts', 'classes', 'domains' or 'mixed'"),
        ({"noise": 1.0}, "noise: expected less than 1"),
        ({"length": 64}, "length: unknown key"),
    ],
)
def test_continual_refuses(fields, expected):
    with pytest.raises(InvalidValues, match=expected):
        continual_task(**fields)


SCORES = [
    [0.9, 0.2, 0.1],
    [0.5, 0.8, 0.3],
    [0.6, 0.4, 1.0],
]
"""R[i][j]: forgetting (0.9 - 0.6 + 0.8 - 0.4) / 2, backward the same with a minus, forward above
a chance of 0.1: (0.2 - 0.1 + 0.3 - 0.1) / 2, final 2 / 3."""


def named(rows):
    return {
        f"after{i}-on{j}": value
        for i, row in enumerate(rows, 1)
        for j, value in enumerate(row, 1)
        if value is not None
    }


def test_the_matrix_is_read_from_the_names_of_cells():
    scores = named(SCORES) | {"test": 0.5, "128x8": 0.3, "after1-on": 0.1, "xafter1-on1": 0.1}
    shuffled = dict(random.Random(0).sample([*scores.items()], len(scores)))
    assert continual.matrix(shuffled) == SCORES
    assert continual.matrix({"test": 0.5}) == []
    assert continual.matrix({"after1-on2": 0.5}) == [[None, 0.5], [None, None]]
    assert continual.cell("after12-on3") == (12, 3)


def test_summary_by_hand():
    found = continual.summary(SCORES, chance=0.1)
    assert found.final == pytest.approx(2 / 3)
    assert found.forgetting == pytest.approx(0.35)
    assert found.backward == pytest.approx(-0.35)
    assert found.forward == pytest.approx(0.15)


def test_forgetting_is_from_the_best_and_backward_from_the_diagonal():
    """Episode 1 is best after episode 2: 0.5, 0.7, 0.6."""
    found = continual.summary([[0.5, None, None], [0.7, 0.8, None], [0.6, 0.9, 0.4]], chance=0.1)
    assert found.forgetting == pytest.approx((0.7 - 0.6 + 0.8 - 0.9) / 2)
    assert found.backward == pytest.approx((0.6 - 0.5 + 0.9 - 0.8) / 2)
    assert found.forward is None


@pytest.mark.parametrize(("rows", "final"), [([], None), ([[0.7]], 0.7)])
def test_without_an_earlier_episode_nothing_is_forgotten(rows, final):
    found = continual.summary(rows, chance=0.1)
    assert vars(found) == {"final": final, "forgetting": None, "backward": None, "forward": None}


def test_reports_show_the_matrix(tmp_path):
    how = Recipe.from_dict({"task": {"kind": "continual", "evaluate_episodes": 3, "items": 2}})
    cells = {f"{split}/accuracy": score for split, score in named(SCORES).items()}
    records = [
        samples.record(i, variant, 0.9 - i / 10, how=how, metrics=cells | {"test/accuracy": 0.5})
        for i, variant in enumerate(samples.variants()[:5])
    ]
    console = Console(file=io.StringIO(), width=200, color_system=None)
    terminal(records, how, console)
    told = "accuracy 0.6667, forgetting 0.3500, backward transfer -0.3500"
    lines = [line for line in console.file.getvalue().splitlines() if told in line]
    assert [line.split(":")[0] for line in lines] == [
        f"After 3 episodes, variant {i}" for i in (1, 2, 3)
    ]
    page = write_report(samples.folder(tmp_path / "study", how, records)).read_text()
    assert page.count("Accuracy matrix") == 3
    assert page.count('<th scope="row">episode 2</th><td class="n">0.5000</td>') == 3
    assert told.capitalize() in page
    assert ">after2-on1</th>" in page  # the levels, once a row of the matrix
    assert ">after2-on2</th>" not in page


def test_forward_transfer_is_above_the_chance_of_the_language():
    """A mixed stream's first episode has another one, of its answers alone."""
    task = {"kind": "continual", **STREAMS["mixed"]}
    how = Recipe.from_dict({"task": task})
    scores = dict.fromkeys((f"{split}/accuracy" for split in how.task.evaluations), 0.5)
    record = samples.record(0, samples.variants()[0], 0.9, how=how, metrics=scores)
    [found] = continual.shown(best_per_variant([record], how), how)
    assert found["summary"].forward == pytest.approx(0.5 - 1 / 64)


def test_a_small_model_knows_more_than_what_can_be_an_answer(tmp_path):
    sizes = {"episodes": 2, "items": 2, "questions": 2, "vocab": 64, "evaluate_episodes": 3}
    examples = {"train_examples": 4000, "eval_examples": 100}
    fields = {"kind": "continual", **sizes, **examples}
    task, record = run(tmp_path, fields, steps=150, batch=64)
    assert len(task.evaluations) == 6
    for split in task.evaluations:
        # Of 200 answers at odds of at most 1/2, five standard deviations are 0.18.
        score, plateau = record.metrics[f"{split}/accuracy"], task.levels(split).plateau
        assert plateau is not None
        assert score > plateau + 0.18

"""Checkpoints under the evaluation harness, against log-likelihoods computed directly."""

import json
import math
import random
import subprocess
import sys
import warnings

import pytest
import torch

from miras_search import checkpoint
from miras_search.errors import UserError
from miras_search.nn.backbone import Backbone
from miras_search.size import Size
from miras_search.space import Space
from miras_search.tasks.bytes import Bytes
from miras_search.tasks.corpus import Corpus

pytest.importorskip("lm_eval", reason="needs the extra eval")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

    from miras_search.lm_eval import MirasLM

pytestmark = pytest.mark.filterwarnings("default")  # of the harness and what it imports


def saved(folder, task, vocabulary):
    """A checkpoint of random weights, large enough that not all tokens are as likely."""
    torch.manual_seed(0)
    variant, size = Space.load("core").sample(random.Random(1)), Size(width=16)
    model = Backbone(variant, size, vocabulary)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    checkpoint.save(folder, model, variant, size, vocabulary, task=task.to_dict())
    return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    return folder, saved(folder, Corpus(), 257)


def asked(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@torch.no_grad()
def direct(model, context, text, begin=(256,)):
    """Log-likelihood of a text, one sequence at a time and all of it at once; and if greedy."""
    told = [*text.encode()]
    tokens = torch.tensor([[*begin, *context.encode(), *told]])
    logits = model(tokens)[0][0].double().log_softmax(-1)[-len(told) - 1 : -1]
    score = float(logits[torch.arange(len(told)), told].sum())
    return score, logits.argmax(-1).tolist() == told


PAIRS = [
    ("Once upon", " a time"),
    ("", "x"),
    ("Once upon", " a tomb"),
    ("é" * 40, "ß"),
    ("a ", "b"),
]


@pytest.mark.parametrize("settings", [{}, {"piece": 3, "batch_size": 1}])
def test_log_likelihoods_are_those_of_the_model(trained, settings):
    folder, model = trained
    lm = MirasLM(str(folder), device="cpu", **settings)
    found = lm.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    for (context, text), (score, greedy) in zip(PAIRS, found, strict=True):
        # The harness counts the spaces that end a context as part of what follows.
        bare = context.rstrip()
        wanted = direct(model, bare, context[len(bare) :] + text)
        assert score == pytest.approx(wanted[0], abs=1e-3)
        assert greedy == wanted[1]
    texts = ["", "a", "A longer text.", "A linger text."]
    rolled = lm.loglikelihood_rolling(asked("loglikelihood_rolling", *((t,) for t in texts)))
    assert rolled[0] == 0
    for text, score in zip(texts[1:], rolled[1:], strict=True):
        assert score == pytest.approx(direct(model, "", text)[0], abs=1e-3)


def greedy(model, context, count):
    tokens = [256, *context.encode()]
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    return tokens[-count:]


def test_generation_is_greedy_and_stops(trained):
    folder, model = trained
    lm = MirasLM(str(folder), device="cpu", piece=4)
    contexts = ["One", "Two", "A longer one"]
    how = {"until": [], "max_gen_toks": 12, "do_sample": False}
    texts = lm.generate_until(asked("generate_until", *((c, how) for c in contexts)))
    for context, text in zip(contexts, texts, strict=True):
        tokens = greedy(model, context, 12)
        if 256 in tokens:
            tokens = tokens[: tokens.index(256)]
        assert text == bytes(tokens).decode(errors="replace")
    assert any(len(text) > 2 for text in texts)
    longest = max(range(3), key=lambda i: len(texts[i]))
    stop = texts[longest][2]
    cut = lm.generate_until(
        asked("generate_until", (contexts[longest], how | {"until": ["not there", stop]}))
    )
    assert cut == [texts[longest].partition(stop)[0]]
    drawn = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    again = [
        MirasLM(str(folder), device="cpu", seed=seed).generate_until(
            asked("generate_until", ("One", drawn))
        )
        for seed in (3, 3, 4)
    ]
    assert again[0] == again[1] != again[2]
    with pytest.raises(UserError, match="cannot sample with top_p"):
        lm.generate_until(asked("generate_until", ("One", drawn | {"top_p": 0.9})))


def test_a_separator_ends_a_generation(trained, monkeypatch):
    folder, _ = trained
    lm = MirasLM(str(folder), device="cpu")
    steps = iter([[104, 97], [256, 98], [105, 256], [106, 99]])
    monkeypatch.setattr(lm, "_steps", lambda prompt, temperature: steps)
    how = {"until": [], "max_gen_toks": 4}
    found = lm.generate_until(asked("generate_until", ("One", how), ("Two", how)))
    assert found == ["h", "ab"]
    assert next(steps) == [106, 99]  # both had ended


QUESTIONS = [
    {"question": "The sky is", "choices": ["blue", "green"], "label": 0},
    {"question": "Grass is", "choices": ["blue", "green"], "label": 1},
    {"question": "Snow is said to be", "choices": ["white", "a colour"], "label": 0},
]
CHOICES = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TEXTS = """\
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list:
  - {metric: bits_per_byte}
"""


def test_local_tasks_score_as_computed_directly(trained, tmp_path, monkeypatch):
    folder, model = trained
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "colours.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name, text in (("colours", CHOICES), ("prose", TEXTS)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("FILE", str(data)))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="miras",
        model_args={"pretrained": str(folder)},
        tasks=["colours", "prose"],
        device="cuda:0",  # what the command says by default, on any machine
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None
    right = 0
    for row, sample in zip(QUESTIONS, found["samples"]["colours"], strict=True):
        wanted = [direct(model, row["question"], " " + choice)[0] for choice in row["choices"]]
        told = [float(answer[0][0]) for answer in sample["resps"]]
        assert told == pytest.approx(wanted, abs=1e-3)
        right += wanted.index(max(wanted)) == row["label"]
    assert found["results"]["colours"]["acc,none"] == pytest.approx(right / 3)
    texts = [row["question"] for row in QUESTIONS]
    nats = sum(direct(model, "", text)[0] for text in texts)
    bits = -nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert found["results"]["prose"]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-4)


def test_a_text_of_the_bytes_task_begins_after_a_line_feed(tmp_path):
    model = saved(tmp_path, Bytes(), 256)
    lm = MirasLM(str(tmp_path), device="cpu")
    found = lm.loglikelihood(asked("loglikelihood", ("to", " be")), disable_tqdm=True)
    assert found[0][0] == pytest.approx(direct(model, "to", " be", (10,))[0], abs=1e-3)


def test_what_cannot_be_evaluated_is_told(tmp_path):
    from miras_search.tasks.parity import Parity

    saved(tmp_path, Parity(), 2)
    with pytest.raises(UserError, match="the task 'parity', whose tokens are no text"):
        MirasLM(str(tmp_path))
    saved(tmp_path, Corpus(), 256)
    with pytest.raises(UserError, match="makes 257 tokens and the model has 256"):
        MirasLM(str(tmp_path))


def test_the_command_is_that_of_the_harness():
    run = subprocess.run(
        [sys.executable, "-m", "miras_search.lm_eval", "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "run" in run.stdout

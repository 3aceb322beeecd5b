"""Trained models as folders to publish: what a fresh process makes of them."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from study_files import RECIPE, run, write

from miras_search import checkpoint
from miras_search.data import corpus
from miras_search.errors import UserError
from miras_search.export import export
from miras_search.folder import StudyFolder
from miras_search.recipe import Recipe
from miras_search.record import TrialRecord
from miras_search.tasks.base import METRICS

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra data")
pytest.importorskip("transformers", reason="needs the extra hf")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two trials, really run."""
    folder = tmp_path_factory.mktemp("study")
    done = run("sweep", *write(folder), "trials=2", "steps=4", "workers=1", f"out={folder / 'out'}")
    assert done.returncode == 0, done.stderr
    return StudyFolder.existing(folder / "out")


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    target = tmp_path_factory.mktemp("published") / 'our "best" <b>'  # which the card has to quote
    done = run("export", str(study.best_checkpoint), str(target))
    assert done.returncode == 0, done.stderr
    assert str(target / "README.md") in done.stdout
    return target


def python(code, cwd):
    """What a fresh process prints, on one thread as the tests: the order of sums is theirs."""
    code = f"import torch\ntorch.set_num_threads(1)\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_of_its_card_runs_in_a_fresh_process(study, exported):
    card = (exported / "README.md").read_text()
    ours, theirs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    begin = "prompt = torch.arange(6).reshape(2, 3)\n"
    end = "\nprint(model(prompt)[0].double().sum().item(), tokens.shape)"
    told = python(begin + ours + end, exported.parent).split()
    model = checkpoint.load(study.best_checkpoint)
    expected = model(torch.arange(6).reshape(2, 3))[0].double().sum().item()
    assert float(told[0]) == expected
    assert "".join(told[1:]) == "torch.Size([2,100])"
    end = "\nprint(model(prompt).logits.double().sum().item())"
    assert float(python(begin + theirs + end, exported.parent)) == pytest.approx(expected, rel=1e-6)


def test_its_card_says_what_was_measured(study, exported):
    card = (exported / "README.md").read_text()
    record = study.record(TrialRecord.read(study.best_checkpoint / "record.json").number)
    assert record is not None
    for split in ("validation", "test"):
        score = record.metrics[f"{split}/{record.metric}"]
        row = next(line for line in card.splitlines() if line.startswith(f"| {split} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        header = next(line for line in card.splitlines() if line.startswith("| held-out set"))
        column = [cell.strip() for cell in header.strip("|").split("|")].index(record.metric)
        assert float(cells[column]) == pytest.approx(score, abs=1e-3)
    assert "one run" in card
    assert f"The score is accuracy, {METRICS['accuracy']}: higher is better." in card
    assert "parameters in 1 layer of width 8," in card
    assert "{{" not in card
    assert '# our "best" \\<b\\>\n' in card
    # Every row of a table has as many cells as its head, and its head is followed by dashes.
    assert len(re.findall(r"^\|.*\n\|[-| ]*\n\|", card, re.MULTILINE)) == 2
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    begin, _, _ = card.removeprefix("---\n").partition("\n---\n")
    assert "library_name: transformers" in begin


@pytest.mark.slow
def test_it_can_be_trained_again(study, exported, tmp_path):
    done = run("train", "variant.yaml", "recipe.yaml", f"out={tmp_path / 'again'}", cwd=exported)
    assert done.returncode == 0, done.stderr
    (again,) = StudyFolder.existing(tmp_path / "again").records()
    first = TrialRecord.read(exported / "record.json")
    assert again.digest == first.digest
    assert again.metrics == first.metrics
    assert again.score == first.score


def test_its_recipe_has_the_rate_and_the_seed_of_the_run(study, tmp_path):
    """Of a run of the finals these are not the study's."""
    trial = tmp_path / "trial"
    shutil.copytree(study.best_checkpoint, trial)
    record = TrialRecord.read(trial / "record.json")
    own = {"seed": 20_177, "lr": 0.0037, "phase": "finals"}
    record.model_copy(update=own).write(trial / "record.json")
    recipe = Recipe.load(export(trial, tmp_path / "ours") / "recipe.yaml")
    assert (recipe.seed, recipe.lr.plain()) == (20_177, 0.0037)
    assert (recipe.trials, recipe.finalists) == (1, 0)


def test_folders_and_machines_of_whoever_trained_it_stay_at_home(study, exported):
    ours = study.record(TrialRecord.read(study.best_checkpoint / "record.json").number)
    assert ours.recipe["out"] == str(study.path)
    told = TrialRecord.read(exported / "record.json")
    own = {"out", "address", "warm_start"}
    assert told.recipe == {k: v for k, v in ours.recipe.items() if k not in own}
    assert told.model_copy(update={"recipe": ours.recipe}) == ours
    for file in exported.iterdir():
        assert str(study.path).encode() not in file.read_bytes(), file
    # And what was exported can be again.
    again = export(exported, exported.with_name("again"))
    assert (again / "recipe.yaml").read_bytes() == (exported / "recipe.yaml").read_bytes()
    assert (again / "record.json").read_bytes() == (exported / "record.json").read_bytes()


def test_it_is_known_as_ours_and_holds_no_code(exported):
    assert json.loads((exported / "config.json").read_text())["model_type"] == "miras"
    assert not [*exported.rglob("*.py")]
    assert {file.name for file in exported.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "model.yaml",
        "recipe.yaml",
        "record.json",
        "variant.yaml",
    }


@pytest.mark.slow
def test_a_corpus_brings_its_tokenizer(tmp_path, monkeypatch):
    """So that transformers reads text by the exported folder alone."""
    monkeypatch.setenv(corpus.CACHE, str(tmp_path / "cache"))
    texts = [
        f"day {i} was {'warm' if i % 3 else 'cold'} and {i * i} birds sang" for i in range(400)
    ]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "days.jsonl").write_text(lines)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=90))
    made.enable_truncation(max_length=2)  # of no use to readers
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="a $A", special_tokens=[("a", made.token_to_id("a"))]
    )  # nor is what training left out
    made.save(str(tmp_path / "bpe.json"))
    task = "{kind: corpus, path: days.jsonl, tokenizer: bpe.json, length: 16, train_examples: 64,"
    task += " eval_examples: 8, evaluate_at: []}"
    recipe = re.sub(r"task:\n(  .*\n)+", f"task: {task}\n", RECIPE)
    write(tmp_path, recipe=recipe)
    words = ["train", "yaad", "recipe.yaml", "lr=1e-3", "heads=2", "steps=3", "out=out"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run("export", "out/best", "days", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pipeline_tag: text-generation" in (tmp_path / "days" / "README.md").read_text()
    (tmp_path / "bpe.json").rename(tmp_path / "moved.json")
    told = python(
        "import miras_search.hf\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('days')\n"
        "read = AutoTokenizer.from_pretrained('days')\n"
        f"tokens = read({texts[7]!r}, return_tensors='pt')\n"
        "print(tokens.input_ids.tolist()[0])\n"
        "print(model.generate(**tokens, max_new_tokens=3).shape[1] - tokens.input_ids.shape[1])\n"
        "print(model.generation_config.eos_token_id - model.config.vocab_size)\n",
        tmp_path,
    )
    made.no_truncation()
    alone = made.encode(texts[7], add_special_tokens=False).ids
    assert alone != made.encode(texts[7]).ids
    assert told.splitlines() == [str(alone), "3", "-1"]
    done = run("export", "out/best", "late", cwd=tmp_path)
    assert done.returncode == 2
    assert "bpe.json" in done.stderr
    assert not (tmp_path / "late").exists()


def test_what_cannot_be_exported_is_told(study, exported, tmp_path):
    def refused(source, target):
        done = run("export", str(source), str(target))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        return line

    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    assert "is taken: expected a new or an empty folder" in refused(study.best_checkpoint, exported)
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before
    assert "expected the folder of a trial" in refused(study.path, tmp_path / "a")
    best = TrialRecord.read(study.best_checkpoint / "record.json").number
    (other,) = {record.number for record in study.records()} - {best}
    assert "no model.safetensors" in refused(study.trial(other), tmp_path / "b")
    about = (study.best_checkpoint / "model.yaml").read_text()
    words = re.sub(r"vocabulary: \d+", "vocabulary: many", about)
    wide = re.sub(r"width: \d+", "width: wide", about)
    for name, damage, told in (
        ("model.safetensors", "\x08", "not a checkpoint of this package"),
        ("model.yaml", words, "vocabulary: expected"),
        ("model.yaml", wide, "size.width: expected"),
    ):
        hurt = tmp_path / name
        shutil.rmtree(hurt, ignore_errors=True)
        shutil.copytree(study.best_checkpoint, hurt)
        (hurt / name).write_text(damage)
        line = refused(hurt, tmp_path / "c")
        assert str(hurt) in line
        assert told in line
        assert not (tmp_path / "c").exists()
    assert not {file.name for file in tmp_path.iterdir()} - {"model.safetensors", "model.yaml"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is taken"):
        export(study.best_checkpoint, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        export(study.best_checkpoint, tmp_path / "file" / "below")

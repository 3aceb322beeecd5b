"""What a GPU adds to what `--device cuda` runs of the other tests: trials, checkpoints, sharing."""

import pytest
import study_samples as samples
import torch
from study_files import results, run

from miras_search import load, load_state, save_state, trial
from miras_search.nn.state import nbytes
from miras_search.record import TrialRecord
from miras_search.variant import Variant

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.trial,
]

DELTA = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
TITANS = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum", "chunk": 16}
ATTENTION = {"memory": "attention", "bias": "l2", "retention": "none", "algorithm": "gd"}
MODELS = [DELTA, TITANS, ATTENTION, TITANS | {"macro": "mac"}, DELTA | {"macro": "mag"}]


def trained(folder, axes, **fields):
    how = samples.recipe(
        size={"width": 32, "layers": 2, "mlp": 0.0}, steps=30, batch=16, lr=[1e-2], **fields
    )
    spec = samples.spec(0, Variant.from_dict(axes | {"heads": 2}), how, str(folder))
    record = trial.run(spec.model_copy(update={"lr": 1e-2, "wandb": "disabled"}))
    assert record.reason is None
    assert record.state == "complete"
    return record


@pytest.mark.parametrize("axes", MODELS, ids=lambda axes: str(Variant.from_dict(axes)))
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_trial_runs_on_the_gpu_and_its_model_on_the_cpu(tmp_path, axes, precision):
    record = trained(tmp_path, axes, precision=precision)
    assert record.device == "cuda:0"
    assert record.curve[-1].train_loss < 0.99 * record.curve[0].train_loss
    here = load(tmp_path)
    assert {p.device.type for p in here.parameters()} == {"cpu"}
    tokens = torch.randint(8192, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, state = here(tokens[:, :20])
        rest, _ = here(tokens[:, 20:], state)
        there = load(tmp_path).cuda()
        found, carried = there(tokens[:, :20].cuda())
        save_state(carried, tmp_path / "state")
        again, _ = there(tokens[:, 20:].cuda(), load_state(tmp_path / "state", "cuda"))
        back, _ = here(tokens[:, 20:], load_state(tmp_path / "state"))
    assert sum(map(nbytes, carried)) == sum(map(nbytes, state))
    for one, two in ((found, wanted), (again, rest), (back, rest)):
        assert (one.cpu() - two).abs().max() < 1e-2 * two.abs().max()


def test_a_trial_can_be_repeated(tmp_path):
    """The same curve to the last digit: sums are taken in the same order."""
    one, two = (trained(tmp_path / name, TITANS) for name in "ab")
    assert [p.score for p in one.curve] == [p.score for p in two.curve]
    assert [p.train_loss for p in one.curve] == [p.train_loss for p in two.curve]


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_trials_share_a_gpu(tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "study"
    done = run(
        *("sweep", "deltanet", "recipes/recall.yaml", f"out={out}", f"executor={executor}"),
        *("workers=4", "steps=20", "lr=[1e-2, 3e-3, 1e-3, 3e-4]", "wandb=disabled"),
        *("task.evaluate_at=[]", "task.train_examples=2000", "task.eval_examples=64"),
    )
    assert done.returncode == 0, done.stderr
    found = results(out)
    assert len(found) == 4
    for number in range(4):
        record = TrialRecord.read(out / "trials" / f"{number:05d}" / "record.json")
        assert (record.state, record.device) == ("complete", "cuda:0")

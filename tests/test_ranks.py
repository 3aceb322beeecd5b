"""Several processes that train one trial: the same numbers, and one end for all."""

import os
import signal
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from study_files import write

from miras_search.data.examples import Batches, Rows, Shares
from miras_search.recipe import load_pair
from miras_search.trial import Pruned, TrialSpec, run

UNEVEN = ("batch=7", "steps=12", "task.train_examples=69", "task.eval_examples=15")
"""Batches of 7 and a last one of 6 in each epoch."""
VARIANT = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd"}
"""Its training does not amplify rounding, as that of a deep memory does in any order of a batch."""


def spec(folder: Path, devices: int, *overrides: str, lr: float = 3e-3) -> TrialSpec:
    how = (*UNEVEN, "accelerator=cpu", f"devices={devices}", *overrides)
    _, recipe = load_pair(*write(folder), how)
    return TrialSpec(
        number=0,
        variant=VARIANT,
        lr=lr,
        seed=1,
        recipe=recipe.to_dict(),
        folder=str(folder / "trial"),
        study="alone",
    )


def others() -> list[int]:
    """Processes that this one has started for a trial."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "miras_search.ranks" in command:
            found.append(int(process.name))
    return found


@pytest.fixture
def six_threads(monkeypatch):
    """More than Lightning would take, where nobody has said how many."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


def test_two_processes_train_as_one(tmp_path, six_threads):
    """Shares are unequal, and so is what they have to score; the threads are shared as well."""
    alone, together = (run(spec(tmp_path / str(n), n)) for n in (1, 2))
    assert (alone.threads, together.threads, torch.get_num_threads()) == (6, 3, 6)
    assert "OMP_NUM_THREADS" not in os.environ
    assert (together.state, together.reason) == ("complete", None)
    assert together.tokens == alone.tokens == 16 * (7 * 12 - 1)
    assert [p.step for p in together.curve] == [4, 8, 12]
    for one, other in zip(alone.curve, together.curve, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)
    assert together.metrics == pytest.approx(alone.metrics, rel=1e-4)
    assert not others()


@pytest.mark.slow
def test_all_stop_when_the_first_is_told_to(tmp_path):
    def stop(point):
        raise Pruned(f"at {point.step}")

    found = run(spec(tmp_path, 3), stop)
    assert (found.state, found.reason, len(found.curve)) == ("pruned", "at 4", 1)
    assert not others()


@pytest.mark.slow
def test_all_diverge_together(tmp_path):
    found = run(spec(tmp_path, 2, "clip=1e30", "weight_decay=1e30", lr=10.0))
    assert found.state == "diverged", found.reason
    assert not others()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "reason"),
    [
        (
            signal.SIGKILL,
            "process 2 of 2: it was killed (signal 9), and not because memory ran out",
        ),
        (signal.SIGABRT, "process 2 of 2: it died with exit code -6"),
    ],
)
def test_a_process_that_dies_is_the_end_of_the_trial(tmp_path, by, reason):
    def kill(point):
        (other,) = others()
        os.kill(other, by)
        while others():
            time.sleep(0.01)

    found = run(spec(tmp_path, 2), kill)
    assert found.state == "failed"
    assert found.reason == reason


def test_shares_make_the_batch():
    rows = Rows(torch.zeros(23, 4), torch.zeros(23, 4))

    def batches():
        return Batches(rows, 5, torch.Generator().manual_seed(0), least=4)

    shares = [Shares(batches(), index, 4) for index in range(4)]
    assert {len(share) for share in shares} == {4} == {len(batches())}
    for whole, *mine in zip(batches(), *shares, strict=True):
        assert all(mine)
        assert sorted(whole) == sorted(chain(*mine))


@pytest.mark.slow  # imports everything anew
def test_a_long_evaluation_is_shared_by_all(tmp_path):
    """Of which a batch would have one example."""
    record = run(spec(tmp_path, 2, "task.evaluate_at=[[8194, 2]]"))
    assert (record.state, record.reason) == ("complete", None)
    assert record.metrics["8194x2/accuracy"] >= 0

"""Ray Tune as an executor: it places trials on a machine or a cluster, the study decides them.

Import after `executor.set_up_ray`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from miras_search.errors import UserError
from miras_search.record import Point, TrialRecord
from miras_search.trial import TrialSpec, ended, outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from miras_search.recipe import Recipe
    from miras_search.study import Study
    from miras_search.view import Progress

LIVES = 3
"""How often a trial may lose its process: with its node through no fault of its own, but the trial
may also be what kills."""


def check(recipe: Recipe) -> None:
    """See whether the cluster has what a trial needs: Ray would wait for ever.

    Raises:
        UserError: it has not, or there is no cluster.
    """
    with _cluster(recipe.address):
        _asked(recipe, recipe.workers)


def execute(study: Study, workers: int | None, view: Progress) -> None:
    """Run a study until it has nothing more to ask, on a cluster or on a Ray of its own.

    The folder of the study must be one that every node of the cluster sees.
    """
    storage, recipe = study.folder.path.absolute() / "ray", study.recipe
    with _cluster(recipe.address):
        asker = Asker(study, view)
        tune.Tuner(
            # Of each trial when it is given out: nodes come and go.
            tune.with_resources(
                _trainable,
                lambda _: tune.PlacementGroupFactory([share(*_asked(recipe, workers))]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=asker,
                scheduler=Stopper(asker),
                num_samples=-1,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        ).fit()
    if asker.broken:
        raise asker.broken
    # Whatever Ray kept there, the study has it.
    shutil.rmtree(storage, ignore_errors=True)


@dataclass
class Running:
    """What the driver knows of a trial that a worker runs."""

    spec: TrialSpec
    curve: list[Point] = field(default_factory=list)
    stop: str | None = None
    """Why it shall stop, once it shall."""
    error: Exception | None = None
    """What its process raised, where it did not die."""


class Asker(Searcher):
    """Passes Ray's questions on to the study, and the answers back."""

    def __init__(self, study: Study, view: Progress) -> None:
        super().__init__()
        self.study, self.view = study, view
        self.running: dict[str, Running] = {}
        self.deaths: Counter[int] = Counter()
        """Of the processes of each trial."""
        self.broken: OSError | None = None
        """What a trial found cannot be written: the study ends here, to go on when it can."""

    def suggest(self, trial_id: str) -> Any:
        spec = None if self.broken else self.study.ask()
        if spec is None:
            # What runs may have to end before there is more to ask.
            return None if self.running else Searcher.FINISHED
        self.running[trial_id] = Running(spec)
        self.view.total = self.study.total
        self.view.started(spec)
        return {"spec": spec.model_dump_json()}

    def hear(self, trial_id: str, point: Point) -> bool:
        """Pass an evaluation on to the study; whether the trial shall stop there."""
        running = self.running[trial_id]
        running.curve.append(point)
        running.stop = self.study.hear(running.spec.number, point)
        self.view.point(running.spec.number, point)
        return running.stop is not None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        running = self.running.pop(trial_id, None)
        if running is None:  # what failed in here makes Ray tell it once more
            return
        spec = running.spec
        record = self.study.folder.record(spec.number)
        if record is None and result and "record" in result:
            record = TrialRecord.model_validate_json(result["record"])
        if record is None and isinstance(running.error, OSError):
            self.broken = running.error
            self.study.give_back(spec.number)
            return
        if record is None and running.stop is None and running.error is None:
            self.deaths[spec.number] += 1
            if self.deaths[spec.number] < LIVES:
                self.study.give_back(spec.number)
                self.view.lost(spec)
                return
        if record is None:
            # Ray ends a trial that it was told to stop before the trial can write its record.
            state = "failed" if running.stop is None else "pruned"
            died = f"the worker process or its node died, {LIVES} times"
            reason = running.stop or (ended(running.error)[1] if running.error else died)
            seconds = (result or {}).get("time_total_s", 0)
            record = outcome(spec, state, reason, curve=tuple(running.curve), seconds=seconds)
        try:
            record.write(self.study.folder.record_file(spec.number))
            self.study.tell(record)
            self.study.publish()
        except OSError as cause:
            self.broken = cause
            return
        self.view.finished(record)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray snapshots its searcher, but the study keeps its own journal."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `__getstate__`."""


class Stopper(FIFOScheduler):
    """Asks the study, at every evaluation, whether the trial goes on."""

    def __init__(self, asker: Asker) -> None:
        super().__init__()
        self.asker = asker

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        point = result.get("point")
        stop = point and self.asker.hear(trial.trial_id, Point.model_validate_json(point))
        return self.STOP if stop else self.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Ray tells the searcher that a trial failed, and not of what. At this moment that is in a
        file of this machine, and not yet where the trial keeps its own."""
        file, error = trial.pickled_error_file, None
        with suppress(Exception):  # what cannot be read again is taken for a death
            error = cloudpickle.loads(Path(file).read_bytes()) if file else None
        if isinstance(error, RayTaskError) and trial.trial_id in self.asker.running:
            self.asker.running[trial.trial_id].error = error.cause or error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of `Asker`."""
        return {}


def _trainable(config: dict[str, Any]) -> None:
    import torch

    # A trial that was stopped ends its log first, and the next one must not fail for that.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    spec = TrialSpec.model_validate_json(config["spec"])
    record = run(spec, lambda point: tune.report({"point": point.model_dump_json()}))
    tune.report({"record": record.model_dump_json()})


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a Ray on the loopback interface that ends with the sweep."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    # What became of a trial is told by the study.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # Whatever other Ray this machine has, or has had: one that was killed is waited for.
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        told = f"address: no Ray cluster at '{address}': {error}"
        if "RAY_AUTH_MODE" not in os.environ and _has_token():
            told += (
                ". One that asks for a token, as `ray start` does where it finds one, is joined "
                "with RAY_AUTH_MODE=token"
            )
        raise UserError(told) from None
    try:
        yield
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Whether Ray finds the token of a cluster, where it looks for one."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def _asked(
    recipe: Recipe, workers: int | None
) -> tuple[list[Mapping[str, float]], int, list[str], int]:
    """The nodes that can hold a trial, how many trials shall run at a time, on what, and on how
    many at least of the first of it.

    Raises:
        UserError: no node can hold one.
    """
    accelerator, least = recipe.accelerator, recipe.devices
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in alive if node.get("CPU", 0) >= 1]
    if not nodes:
        raise UserError(f"address: the Ray cluster has {len(alive)} nodes and no CPU for a trial")
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    if accelerator == "cpu" or (accelerator == "auto" and not with_gpu):
        devices = ["CPU"]
    elif with_gpu:
        nodes, devices = with_gpu, ["GPU", "CPU"]
    else:
        raise UserError("accelerator: gpu, but no node of the Ray cluster has one beside a CPU")
    main = devices[0]
    able = [node for node in nodes if node[main] >= least]
    if not able:
        most = int(max(node[main] for node in nodes))
        raise UserError(f"devices: {least}, but no node of the Ray cluster has over {most} {main}s")
    return able, workers or int(sum(node[main] // least for node in able)), devices, least


def share(
    nodes: Sequence[Mapping[str, float]], trials: int, devices: Sequence[str], least: int = 1
) -> dict[str, float]:
    """The most of each device, the first before the next, that `trials` trials have at a time.

    Whole devices where there are enough, else an equal part of one: Ray packs no other fractions.
    Every node has some of each device. No trial has fewer than `least` of the first if these are
    several, and then there may be fewer trials at a time.
    """

    def held(node: Mapping[str, float], parts: Mapping[str, Fraction]) -> int:
        return min(int(Fraction(node[name]) // part) for name, part in parts.items())

    if least > 1:
        trials = min(trials, sum(int(node[devices[0]] // least) for node in nodes))
    parts: dict[str, Fraction] = {}
    for name in devices:
        fewest = least if name == devices[0] else 1
        whole = range(int(max(node[name] for node in nodes)), fewest - 1, -1)
        pieces = () if fewest > 1 else (Fraction(1, n) for n in count(2))
        for part in chain(map(Fraction, whole), pieces):
            parts[name] = part
            if sum(held(node, parts) for node in nodes) >= trials:
                break
    # Ray counts in ten-thousandths: rounded up, the last part of a device would not fit.
    return {name: max(1, int(part * 10_000)) / 10_000 for name, part in parts.items()}

"""Ray as an executor: a real Ray on this machine, and a real cluster of two nodes."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from study_files import Silent, apart, command, results, run, write

from miras_search import executor
from miras_search.errors import UserError
from miras_search.executor import set_up_ray
from miras_search.recipe import Recipe, load_pair
from miras_search.study import Study


def sweep(folder: Path, name: str, *overrides: str) -> list[dict]:
    """The results of a sweep by the command line."""
    out = folder / name
    how = apart if "executor=ray" in overrides else run
    done = how("sweep", *write(folder), f"out={out}", *overrides)
    assert done.returncode == 0, done.stderr
    return results(out)


@pytest.fixture
def another_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a Ray of this machine that was killed leaves: the address at which it was."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # for the names of sockets
        (Path(short) / "ray").mkdir()
        (Path(short) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        monkeypatch.setenv("RAY_TMPDIR", short)
        yield


def test_ray_runs_the_trials_of_local_workers_and_listens_on_loopback_alone(
    tmp_path: Path, another_ray: None
) -> None:
    """One worker, a sampler that learns from results: every proposal and every number agree."""
    how = ("sampler=tpe", "trials=12", "lr={log_uniform: [1e-3, 1e-1]}", "steps=3")
    local = sweep(tmp_path, "local", *how)
    assert [r["number"] for r in local] == list(range(12))
    out = tmp_path / "ray"
    arguments = ("sweep", *write(tmp_path), f"out={out}", *how, "executor=ray")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not list(out.glob("trials/*")) and process.poll() is None:
            time.sleep(0.1)
        mine = psutil.Process(process.pid).children(recursive=True)
        listening = {
            c.laddr.ip
            for p in mine
            for c in connections(p)
            if c.status == psutil.CONN_LISTEN and c.type == socket.SOCK_STREAM
        }
        ray_processes = [p for p in mine if "raylet" in " ".join(arguments_of(p))]
    finally:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert ray_processes
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    assert results(out) == local
    assert not (out / "ray").exists()


def connections(process: psutil.Process) -> list:
    try:
        return process.net_connections(kind="inet")
    except psutil.Error:
        return []


def arguments_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and a second node, each with one CPU, on this machine."""
    from ray.cluster_utils import Cluster

    # A node that is gone is found out in seconds.
    hasty = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}
    hasty |= {"health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": hasty}
    nodes = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


def test_a_cluster_of_two_nodes_runs_a_sweep(tmp_path: Path, cluster: Any) -> None:
    how = ("executor=ray", f"address={cluster.address}", "workers=2")
    refused = apart("sweep", *write(tmp_path), f"out={tmp_path / 'no'}", *how, "accelerator=gpu")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: accelerator: gpu, but no node of the Ray cluster")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()
    found = sweep(tmp_path, "out", *how)
    assert [r["state"] for r in found] == ["complete"] * 8


@pytest.mark.slow  # half a minute to see one sentence
def test_a_cluster_that_asks_for_a_token_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray start` asks for one where it finds one, and a sweep has to be told so."""
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    how = ("--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false")
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", *how, "--disable-usage-stats"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert head.stdout
        assert any("Ray runtime started" in line for line in head.stdout)
        how = ("executor=ray", f"address=127.0.0.1:{port}", "accelerator=gpu")
        refused = apart("sweep", *write(tmp_path), *how)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1].endswith("is joined with RAY_AUTH_MODE=token")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        joined = apart("sweep", *write(tmp_path), *how)
        assert joined.stderr.startswith("error: accelerator: gpu, but no node of the Ray cluster")
    finally:
        head.terminate()
        head.communicate()


@pytest.mark.slow
def test_a_node_that_dies_costs_no_trial(tmp_path: Path, cluster: Any) -> None:
    """What had finished stays as it is, what ran there runs again, and every result is that of a
    study that nothing happened to."""
    how = ("steps=10", "evaluate=2", "trials=5")
    out = tmp_path / "out"
    arguments = ("sweep", *write(tmp_path), f"out={out}", *how, "workers=2")
    process = subprocess.Popen(
        command(*arguments, "executor=ray", f"address={cluster.address}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def finished() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in out.glob("trials/*/record.json")}

    while not finished() and process.poll() is None:
        time.sleep(0.1)
    before = finished()
    (second,) = cluster.worker_nodes
    cluster.remove_node(second, allow_graceful=False)
    told, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert 1 <= len(before) < 5
    assert before.items() <= finished().items()
    assert told.count("was lost") == 1
    assert [r["state"] for r in results(out)] == ["complete"] * 5
    assert results(out) == sweep(tmp_path, "alone", *how)


def test_a_trial_that_always_dies_is_given_up(tmp_path: Path) -> None:
    set_up_ray(None)
    from miras_search.executor import ray

    view = Silent()
    pair = load_pair(*write(tmp_path), [f"out={tmp_path / 'out'}", "trials=2"])
    with Study.begin(*pair) as study:
        asker = ray.Asker(study, view)  # pyright: ignore[reportArgumentType]
        for life in range(ray.LIVES):
            assert asker.suggest(f"life {life}") is not None
            asker.on_trial_complete(f"life {life}", error=True)
        assert view.events == [("started", 0), ("lost", 0)] * (ray.LIVES - 1) + [
            ("started", 0),
            ("finished", 0),
        ]
        assert [(r.number, r.state) for r in study.records] == [(0, "failed")]
        assert asker.suggest("next") is not None
        assert view.events[-1] == ("started", 1)


@pytest.mark.slow  # a Ray of its own
def test_what_a_worker_raises_outside_of_a_trial_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_ray(None)
    from miras_search.executor import ray

    suggest = ray.Asker.suggest

    def broken(self: Any, trial_id: str) -> Any:
        given = suggest(self, trial_id)
        return {"other": "spec"} if isinstance(given, dict) else given

    monkeypatch.setattr(ray.Asker, "suggest", broken)
    view = Silent()
    pair = load_pair(*write(tmp_path), [f"out={tmp_path / 'out'}", "trials=2", "executor=ray"])
    with Study.begin(*pair) as study:
        ray.execute(study, 1, view)  # pyright: ignore[reportArgumentType]
        assert [(r.number, r.state) for r in study.records] == [(0, "failed"), (1, "failed")]
        assert {r.reason for r in study.records} == {"KeyError: 'spec'"}
    assert ("lost", 0) not in view.events


@pytest.mark.parametrize("raised", [RuntimeError("why"), OSError(ENOSPC, os.strerror(ENOSPC))])
def test_what_cannot_be_written_ends_a_study_and_other_errors_a_trial(
    tmp_path: Path, raised: Exception
) -> None:
    set_up_ray(None)
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    from miras_search.executor import ray

    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(RayTaskError("_trainable", "", raised)))
    pair = load_pair(*write(tmp_path), [f"out={tmp_path / 'out'}", "trials=2"])
    with Study.begin(*pair) as study:
        asker = ray.Asker(study, Silent())  # pyright: ignore[reportArgumentType]
        assert asker.suggest("one")
        trial = SimpleNamespace(trial_id="one", pickled_error_file=str(tmp_path / "error.pkl"))
        ray.Stopper(asker).on_trial_error(None, trial)  # pyright: ignore[reportArgumentType]
        asker.on_trial_complete("one", error=True)
        asker.on_trial_complete("one", error=True)  # as Ray does after a failure in there
        if isinstance(raised, RuntimeError):
            assert [r.reason for r in study.records] == ["RuntimeError: why"]
            assert asker.suggest("two")
        else:
            assert not study.records
            assert asker.suggest("two") == ray.Searcher.FINISHED
            assert isinstance(asker.broken, OSError)
            again = study.ask()
            assert again
            assert again.number == 0


@pytest.mark.parametrize("devices", [("CPU",), ("GPU", "CPU")])
def test_as_many_trials_as_asked_for_fit_at_a_time(devices: tuple[str, ...]) -> None:
    """And with one device more, or the next larger part of one, they would not."""
    from miras_search.executor.ray import share

    def fit(nodes: list[dict[str, float]], parts: dict[str, float]) -> int:
        return sum(min(int(node[d] / part + 1e-3) for d, part in parts.items()) for node in nodes)

    sizes = itertools.product((1, 2, 3, 8), repeat=len(devices))
    kinds = [dict(zip(devices, size, strict=True)) for size in sizes]
    for nodes in itertools.combinations_with_replacement(kinds, 2):
        for trials in (1, 2, 3, 5, 16, 40):
            found = share(nodes, trials, devices)
            assert fit(nodes, found) >= trials
            known: dict[str, float] = {}
            for device, part in found.items():
                more = part + 1 if part >= 1 else 1 / (round(1 / part) - 1)
                assert fit(nodes, known | {device: more}) < trials
                known[device] = part


@pytest.mark.parametrize(
    ("nodes", "how", "told"),
    [
        ([{"memory": 1.0}, {"CPU": 0.0, "GPU": 8.0}], "auto", "2 nodes and no CPU"),
        ([{"CPU": 8.0}, {"CPU": 0.0, "GPU": 8.0}], "gpu", "no node of the Ray cluster has one"),
        ([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 3.0}], "gpu", "devices: 4, but .* has over 3 GPUs"),
        ([{"CPU": 3.0}, {"CPU": 2.0, "GPU": 4.0}], "cpu", "devices: 4, but .* has over 3 CPUs"),
    ],
)
def test_what_no_node_can_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], how: str, told: str
) -> None:
    from miras_search.executor import ray

    alive = [{"Alive": True, "Resources": node} for node in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    monkeypatch.setattr(ray.ray, "nodes", lambda: [*alive, dead])
    with pytest.raises(UserError, match=told):
        ray._asked(Recipe.from_dict({"task": "mqar", "accelerator": how, "devices": 4}), None)


@pytest.mark.parametrize(
    ("trials", "found"),
    [(1, {"GPU": 8, "CPU": 16}), (3, {"GPU": 3, "CPU": 4}), (9, {"GPU": 2, "CPU": 4})],
)
def test_no_trial_has_fewer_devices_than_it_wants(trials: int, found: dict[str, float]) -> None:
    from miras_search.executor.ray import share

    nodes = [{"GPU": 3.0, "CPU": 4.0}, {"GPU": 8.0, "CPU": 16.0}]
    assert share(nodes, trials, ("GPU", "CPU"), 2) == found


def test_no_cluster_at_the_address_is_one_sentence(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    told = run(
        "sweep", *arguments, f"out={tmp_path / 'out'}", "executor=ray", "address=127.0.0.1:1"
    )
    assert told.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens at '{}' is no Ray cluster"),
        (b"", "what listens at '{}' is no Ray cluster"),
        (None, "no Ray cluster at '{}': timed out"),
    ],
)
def test_what_is_no_ray_is_not_waited_for(
    answer: bytes | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else answers, closes the connection or says nothing."""
    monkeypatch.setattr(executor, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        asked = pool.submit(executor.check_cluster, address)
        connection, _ = server.accept()
        with connection:
            if answer is not None:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
            with pytest.raises(UserError, match=told.format(address)):
                asked.result(30)

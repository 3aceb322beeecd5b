"""Ray as an executor: a real Ray on this machine, and a real cluster of two nodes."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from study_files import command, results, run, write


def sweep(folder: Path, name: str, *overrides: str) -> list[dict]:
    """The results of a sweep by the command line."""
    out = folder / name
    done = run("sweep", *write(folder), f"out={out}", *overrides)
    assert done.returncode == 0, done.stderr
    return results(out)


def test_ray_runs_the_trials_of_local_workers_and_listens_on_loopback_alone(tmp_path: Path) -> None:
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
def cluster() -> Iterator[str]:
    """A head and a second node, each with one CPU, on the loopback interface."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
        shutdown_at_exit=True,
    )
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


def test_a_cluster_of_two_nodes_runs_a_sweep(tmp_path: Path, cluster: str) -> None:
    found = sweep(tmp_path, "out", "executor=ray", f"address={cluster}", "workers=2")
    assert [r["state"] for r in found] == ["complete"] * 8


def test_no_cluster_at_the_address_is_one_sentence(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    told = run(
        "sweep", *arguments, f"out={tmp_path / 'out'}", "executor=ray", "address=127.0.0.1:1"
    )
    assert told.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()

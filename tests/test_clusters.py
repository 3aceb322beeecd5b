"""The files of docs/cluster: they can be read, and that of SLURM starts a Ray and a sweep on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from study_files import results, write

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "docs" / "cluster"


def test_every_file_is_in_the_document() -> None:
    told = (ROOT / "docs" / "clusters.md").read_text()
    assert all(f"(cluster/{file.name})" in told for file in CLUSTER.iterdir())


def test_ray_accepts_the_cluster_of_ssh() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = yaml.safe_load((CLUSTER / "ssh.yaml").read_text())
    validate_config(prepare_config(found))
    assert found["max_workers"] == len(found["provider"]["worker_ips"])


def test_the_ray_job_is_of_this_ray_and_its_volumes_are_mounted() -> None:
    import ray

    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["image"]


def test_bash_reads_the_script() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)


STAND_INS = {
    # The options of srun are dropped, and what follows runs here.
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": '[[ "$1 $2 $3" == "show hostnames nodes[1-2]" ]] && printf "node1\\nnode2\\n"',
    "hostname": "echo {ip} 10.255.255.1",
}


@pytest.mark.slow
def test_the_slurm_script_starts_two_nodes_and_sweeps(tmp_path: Path) -> None:
    import ray.util

    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in STAND_INS.items():
        body = text.replace("{ip}", ray.util.get_node_ip_address())
        (bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (bin / name).chmod(0o755)
    here = str(Path(sys.executable).parent)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "nodes[1-2]"}
    slurm |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    slurm |= {"PATH": os.pathsep.join([str(bin), here, os.environ["PATH"]])}
    out = tmp_path / "out"
    script = ["bash", str(CLUSTER / "slurm.sh"), *write(tmp_path), f"out={out}", "trials=2"]
    # To files: what the script leaves behind would hold a pipe open.
    with (tmp_path / "stdout").open("w") as told, (tmp_path / "stderr").open("w") as errors:
        done = subprocess.run(
            [*script, "steps=2"],
            env=os.environ | slurm,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=errors,
            timeout=600,
            check=False,
        )
    said = (tmp_path / "stderr").read_text()
    assert done.returncode == 0, said
    assert "authentication is disabled" not in said
    assert (tmp_path / "stdout").read_text().count("Ray runtime started") == 2
    assert [r["state"] for r in results(out)] == ["complete"] * 2

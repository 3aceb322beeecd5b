"""One thread for each worker, no network, and tensors on the device that `--device` names."""

import os
import socket

import pytest
import torch
from torch.overrides import TorchFunctionMode

torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")
# Ray's workers are of low priority, and wait for the tests beside them: 15 unless said.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Connections leave this machine for no test; loopback and local sockets stay open."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """What is made once for all trials of a machine is made for these tests alone."""
    os.environ["MIRAS_SEARCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=["mqar", "bytes"])
def how(request):
    """A recipe of whose task higher scores are better, and one of whose lower ones are."""
    import study_samples

    return study_samples.recipe(request.param)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tensors of the tests are made")


class Drawn(TorchFunctionMode):
    """What is drawn by a generator of the CPU is drawn there, and then moved."""

    def __init__(self, device):
        self.device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.rand, torch.randn, torch.randint) and kwargs.get("generator"):
            return function(*args, **{**kwargs, "device": "cpu"}).to(self.device)
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def _device(request):
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cpu" or request.node.get_closest_marker("trial"):
        yield
    else:
        with device, Drawn(device):
            yield

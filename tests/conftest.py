"""One thread for each worker, and no test reaches the network."""

import os
import socket

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")


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

"""Who runs the trials of a study: worker processes of this machine, or Ray Tune."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from miras_search.errors import UserError

if TYPE_CHECKING:
    from miras_search.recipe import Recipe

RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no output of its own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe may name files from the working directory
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result files beside ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
}

PATIENCE = 10.0
"""Seconds for an answer from an address."""
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The frame, of type 4, that both ends of HTTP/2, and so of gRPC, begin with (RFC 9113, 3.4)."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS


def cores() -> int:
    """Cores of this machine that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus(recipe: Recipe) -> int:
    """GPUs of this machine that trials may have."""
    if recipe.accelerator == "cpu":
        return 0
    import torch

    return torch.accelerator.device_count()


def trials_at_once(recipe: Recipe) -> int:
    """How many trials this machine runs at a time: what the recipe says, or as many as it has GPUs
    for or, where there are none, cores."""
    return recipe.workers or max(1, (gpus(recipe) or cores()) // recipe.devices)


def set_up_ray(address: str | None) -> None:
    """Set what Ray reads from the environment when it is imported; what a user has set stays.

    Without a cluster to join, Ray is told that there are no clusters: even when asked for the
    loopback address it otherwise listens on every interface.
    """
    settings = dict(RAY_SETTINGS)
    if address is None:
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def check_cluster(address: str) -> None:
    """See whether a server of gRPC, as Ray is one, listens at HOST:PORT: Ray tries for minutes.

    Raises:
        UserError: none does, or it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"address: expected HOST:PORT or auto, got '{address}'")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as found:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            found.sendall(HELLO)
            answer = found.makefile("rb").read(len(SETTINGS))
    except (OSError, OverflowError) as error:
        raise UserError(f"address: no Ray cluster at '{address}': {error}") from None
    if answer[3:4] != SETTINGS[3:4]:
        raise UserError(f"address: what listens at '{address}' is no Ray cluster")

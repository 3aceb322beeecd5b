"""Who runs the trials of a study: worker processes of this machine, or Ray Tune."""

from __future__ import annotations

import os
import socket

from miras_search.errors import UserError

RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no output of its own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe may name files from the working directory
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result files beside ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
}


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
    """See whether somebody listens at HOST:PORT: Ray itself tries for minutes.

    Raises:
        UserError: nobody does, or it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"address: expected HOST:PORT or auto, got '{address}'")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"address: no Ray cluster at '{address}': {error}") from None

"""Who runs the trials of a study: worker processes of this machine, or Ray Tune."""

import os

# Read by Ray when it is imported: no own output, no result files beside ours, no change of the
# working directory (a recipe may name files), no statistics sent, Ctrl-C raised here.
for name, value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}.items():
    os.environ.setdefault(name, value)

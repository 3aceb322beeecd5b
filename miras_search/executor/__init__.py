"""Who runs the trials of a study: worker processes of this machine, or Ray Tune."""

"""What the memory layer costs, as ratios measured in one process run: `make bench`."""

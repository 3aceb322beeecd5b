"""Finished studies as one table, and samplers replayed against it.

studies -> Table (a Parquet file) -> Outcomes -> Replays, for each sampler -> Verdict
"""

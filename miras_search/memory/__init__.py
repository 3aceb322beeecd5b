"""Memory architecture: what is the updatable memory?

A parametric memory is a function M(x; W) of a few weight matrices, written by gradient steps
on W. A growing memory keeps every pair it has seen and has no weights to update.
"""

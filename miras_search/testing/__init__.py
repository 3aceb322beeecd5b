"""Conformance suites: what a registered component promises, as checks anyone can run."""

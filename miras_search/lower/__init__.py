"""Lowerings: how a variant is computed. Each is the same function of the same arguments."""

"""Macro architecture: where do memories stand in a model, and what stands beside them?"""

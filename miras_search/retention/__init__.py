"""Retention gate: what does the memory keep of what it held before a write?"""

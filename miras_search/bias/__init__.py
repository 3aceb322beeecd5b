"""Attentional bias: what does the memory try to memorise?

The inner loss of one token, a sum over value channels: its gradient at M(k) is what is written.
"""

"""The past tokens that an algorithm with a window needs again, as they travel between pieces.

A piece of a sequence is a mapping from names to tensors with the tokens in dimension 2: "keys",
"values", the gates of the bias and the importance of each token. Only what is not fixed is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from miras_search.lower.call import WINDOW, Call, Gates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Piece = dict[str, "Tensor"]


def piece(k: Tensor, v: Tensor, bias_gates: Gates, weight_gates: Mapping[str, Gates]) -> Piece:
    """Tokens k `[B, H, n, K]`, v `[B, H, n, V]` and their gates."""
    named = {f"gates/{name}": g for name, g in bias_gates.items()}
    named |= {
        f"gates/importance.{m}": g["importance"]
        for m, g in weight_gates.items()
        if "importance" in g
    }
    return {"keys": k, "values": v} | {name: g for name, g in named.items() if g.dim()}


def carried(call: Call) -> Piece:
    """The past tokens that the state of a call keeps."""
    tensors = call.state.tensors
    return {n.removeprefix(WINDOW): x for n, x in tensors.items() if n.startswith(WINDOW)}


def extend(past: Piece, new: Piece) -> Piece:
    """The past and then the new."""
    return {name: torch.cat([past[name], x], 2) if name in past else x for name, x in new.items()}


def last(tokens: Piece, count: int) -> Piece:
    """The last `count` tokens, or fewer if there are not as many; nothing for 0."""
    if not count:
        return {}
    return {name: x[:, :, max(0, x.shape[2] - count) :] for name, x in tokens.items()}


def bias_gates_of(tokens: Piece, call: Call) -> Gates:
    """The gates of the bias for a piece; a fixed one is as it is in the call."""
    return {name: tokens.get(f"gates/{name}", g) for name, g in call.bias_gates.items()}


def importance_of(tokens: Piece, call: Call, matrix: str) -> Tensor | float:
    """The weight of each token of a piece `[B, H, n, 1]`, or one for all of them."""
    fixed = call.weight_gates[matrix].get("importance", 1.0)
    weight = tokens.get(f"gates/importance.{matrix}", fixed)
    return weight[..., 0] if isinstance(weight, torch.Tensor) and weight.dim() else weight

"""The anchored update rule as the papers print it, one token at a time with every W_t spelled out.

Written from the equations and sharing nothing with the package: losses, memories and updates
stand here a second time, gradients come from `torch.autograd.grad`. Kinds that are not written
here (those of other packages, say) fall back to what the component itself declares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from miras_search.lower.call import State


def l2(bias, pred, v, gates):
    return 0.5 * ((pred - v) ** 2).sum()


def dot(bias, pred, v, gates):
    return -(pred * v).sum()


def lp(bias, pred, v, gates):
    r, p = pred - v, bias.p
    size = torch.sqrt(r * r + 1e-6) if p < 2 else r.abs()
    return (size**p).sum() / p


def huber(bias, pred, v, gates):
    r, d = pred - v, gates["delta"]
    length = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    if bias.form == "coordinate":
        return torch.where(r.abs() <= d, 0.5 * r * r, d * (r.abs() - 0.5 * d)).sum()
    if bias.form == "norm":
        return torch.where(length <= d, 0.5 * length**2, d * (length - 0.5 * d)).sum()
    return torch.where(length <= d, 0.5 * r * r, d * torch.sqrt(r * r + 1e-6)).sum()


LOSSES = {"l2": l2, "dot": dot, "lp": lp, "huber": huber}

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x * (x > 0),
}


def matrix(memory, weights, x):
    return torch.einsum("bhvk,bhk->bhv", weights["W"], x)


def mlp(memory, weights, x):
    y = x
    for i in range(1, memory.depth + 1):
        y = torch.einsum("bhon,bhn->bho", weights[f"W{i}"], y)
        if i < memory.depth:
            y = ACTIVATIONS[memory.activation](y)
    if memory.form == "plain":
        return y
    mean = y.mean(-1, keepdim=True)
    spread = ((y - mean) ** 2).mean(-1, keepdim=True)
    return x + (y - mean) / torch.sqrt(spread + 1e-5)


MEMORIES = {"matrix": matrix, "mlp": mlp}


def loss_of(bias, pred, v, gates):
    own = LOSSES.get(bias.kind, lambda *args: bias.loss(*args[1:]).sum())
    return own(bias, pred, v, gates)


def recall(memory, weights, x):
    if memory.kind in MEMORIES:
        return MEMORIES[memory.kind](memory, weights, x)
    maps = {m: lambda h, w=w: torch.einsum("bhon,bhn->bho", w, h) for m, w in weights.items()}
    return memory.apply(maps, x)


def update(variant, old, gates, grad):
    """What is carried after a token, by slot; coefficients are `[B, H, 1 or out]`."""
    rows = {name: g[..., None] for name, g in gates.items()}
    match variant.retention.kind:
        case "none":
            kept = 1.0
        case "l2":
            kept = rows["retention"]
        case _:
            kept = variant.retention.retain(rows)
    match variant.algorithm.kind:
        case "gd":
            return {"weights": kept * old["weights"] - rows["step"] * grad}
        case "momentum":
            s = rows["momentum"] * old["momentum"] - rows["step"] * grad
            return {"weights": kept * old["weights"] + s, "momentum": s}
    declared, slots = variant.algorithm.transition(kept, rows), variant.algorithm.slots
    return {
        slot: sum(c * old[s] for c, s in zip(carry, slots, strict=True) if c is not None)
        - inject * rows["step"] * grad
        for slot, carry, inject in zip(slots, declared.carry, declared.inject, strict=True)
    }


def attention(variant, q, k, v):
    scale = variant.memory.scale or 1 / math.sqrt(k.shape[-1])
    rows = []
    for t in range(q.shape[1]):
        score = torch.einsum("bhk,bihk->bhi", q[:, t], k[:, : t + 1]) * scale
        e = torch.exp(score)
        rows.append(torch.einsum("bhi,bihv->bhv", e / e.sum(-1, keepdim=True), v[:, : t + 1]))
    return torch.stack(rows, 1), State({"keys": k.transpose(1, 2), "values": v.transpose(1, 2)})


def gate(variant, gates, name, matrix, t):
    """A coefficient at token t as `[B, H, 1]` or `[B, H, channels]`."""
    given = gates.get(f"{name}.{matrix}", gates.get(name))
    if given is None:
        (fixed,) = (c.source for c in variant.coefficients() if c.name == name)
        return torch.full((1, 1, 1), float(fixed), dtype=torch.float64)
    return given[:, t] if given.dim() == 4 else given[:, t, :, None]


def memorize(variant, q, k, v, gates, weights, state=None, lowering=None) -> tuple[Tensor, State]:
    """Same arguments and results as `miras_search.layer.memorize`, for a whole sequence."""
    if variant.memory.grows:
        return attention(variant, q, k, v)
    batch, tokens = q.shape[:2]
    names = [c.name for c in variant.coefficients()]
    of_bias = [c.name for c in variant.coefficients() if c.acts_on == "output"]
    carried = {
        m: {slot: torch.zeros(batch, *w.shape, dtype=w.dtype) for slot in variant.algorithm.slots}
        for m, w in weights.items()
    }
    for m, w in weights.items():
        carried[m]["weights"] = w + torch.zeros(batch, *w.shape, dtype=w.dtype)
    anchor, outputs, graph = {}, [], torch.is_grad_enabled()
    for t in range(tokens):
        if t % variant.chunk == 0:
            anchor = {m: slots["weights"] for m, slots in carried.items()}
        with torch.enable_grad():
            at = anchor if graph else {m: w.detach().requires_grad_() for m, w in anchor.items()}
            bias_gates = {name: gate(variant, gates, name, None, t) for name in of_bias}
            loss = loss_of(variant.bias, recall(variant.memory, at, k[:, t]), v[:, t], bias_gates)
            grads = torch.autograd.grad(loss, list(at.values()), create_graph=graph)
        for m, g in zip(at, grads, strict=True):
            mine = {name: gate(variant, gates, name, m, t) for name in names}
            carried[m] = update(variant, carried[m], mine, g)
        now = {m: slots["weights"] for m, slots in carried.items()}
        outputs.append(recall(variant.memory, now, q[:, t]))
    tensors = {f"{slot}/{m}": z for m, slots in carried.items() for slot, z in slots.items()}
    if tokens % variant.anchor_every:
        tensors |= {f"anchor/{m}": w for m, w in anchor.items()}
    return torch.stack(outputs, 1), State(tensors, tokens)

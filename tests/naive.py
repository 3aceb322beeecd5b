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


def l1(bias, pred, v, gates):
    return torch.sqrt((pred - v) ** 2 + 1e-6).sum()


def elastic(bias, pred, v, gates):
    r, m = pred - v, bias.mix
    return ((1 - m) / 2 * r * r + m * torch.sqrt(r * r + 1e-6)).sum()


def value_shift(bias, pred, v, gates):
    square = ((pred - v) ** 2).sum(-1, keepdim=True)
    return (square / 2 + gates["delta"] * torch.sqrt(square + 1e-6)).sum()


def kl(bias, pred, v, gates):
    p, q = torch.softmax(v, -1), torch.softmax(pred, -1)
    return (p * torch.log(p / q)).sum()


LOSSES = {
    "l2": l2,
    "dot": dot,
    "lp": lp,
    "huber": huber,
    "l1": l1,
    "elastic": elastic,
    "value_shift": value_shift,
    "kl": kl,
}

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x * (x > 0),
}


def product(w, x):
    return torch.einsum("bhon,bhn->bho", w, x)


def around(form, x, y):
    if form == "plain":
        return y
    if form == "residual":
        return x + y
    mean = y.mean(-1, keepdim=True)
    spread = ((y - mean) ** 2).mean(-1, keepdim=True)
    return x + (y - mean) / torch.sqrt(spread + 1e-5)


def vector(memory, weights, x, h):
    h["w"] = torch.ones_like(x[..., :1])
    return weights["w"][..., 0] * x


def matrix(memory, weights, x, h):
    h["W"] = x
    return product(weights["W"], x)


def mlp(memory, weights, x, h):
    y = x
    for i in range(1, memory.depth + 1):
        h[f"W{i}"] = y
        y = product(weights[f"W{i}"], y)
        if i < memory.depth:
            y = ACTIVATIONS[memory.activation](y)
    return around(memory.form, x, y)


def gated_mlp(memory, weights, x, h):
    h["W1"] = h["W2"] = x
    gate = ACTIVATIONS[memory.activation](product(weights["W1"], x))
    h["W3"] = gate * product(weights["W2"], x)
    return around(memory.form, x, product(weights["W3"], h["W3"]))


def slots(memory, weights, x, h):
    h["K"] = x
    score = torch.exp(product(weights["K"], x))
    h["V"] = score / score.sum(-1, keepdim=True)
    return product(weights["V"], h["V"])


MEMORIES = {"vector": vector, "matrix": matrix, "mlp": mlp, "gated_mlp": gated_mlp, "slots": slots}


def loss_of(variant, pred, v, gates):
    if variant.algorithm.kind == "newton":  # sums up pairs
        return dot(variant.bias, pred, v, gates)
    own = LOSSES.get(variant.bias.kind, lambda *args: variant.bias.loss(*args[1:]).sum())
    return own(variant.bias, pred, v, gates)


def recall(memory, weights, x, h):
    """M(x), and in `h` what enters each matrix."""
    if memory.kind in MEMORIES:
        return MEMORIES[memory.kind](memory, weights, x, h)

    def through(m, entered):
        h[m] = entered
        return product(weights[m], entered)

    return memory.apply({m: lambda x, m=m: through(m, x) for m in weights}, x)


def norm(x, p):
    return x.abs().pow(p).sum((-2, -1), keepdim=True).clamp(min=1e-200) ** (1 / p)


def shrink(x, c):
    return torch.where(x > c, x - c, torch.where(x < -c, x + c, torch.zeros_like(x)))


def shown(gate, a):
    """The memory W that the state A stands for."""
    match gate.kind:
        case "lq" if gate.form == "printed":
            smallest = 1e-12 ** (1 / (gate.q - 2)) if gate.q > 2 else 0.0
            return a / norm(a, gate.q).clamp(min=smallest) ** (gate.q - 2)
        case "lq":
            p = gate.q / (gate.q - 1)
            return a.sign() * a.abs() ** (p - 1) / norm(a, p) ** (p - 2)
        case "kl":
            e = torch.exp(a)
            return a.shape[-1] * e / e.sum(-1, keepdim=True)
        case "bregman" if gate.link == "sigmoid":
            return 1 / (1 + torch.exp(-a))
        case "elastic_net" if gate.form == "ftrl":
            return shrink(a, gate.sparsity)
    return a if gate.kind in RETENTIONS else gate.expose(a)


RETENTIONS = ("none", "l2", "l2_local_global", "lq", "kl", "bregman", "elastic_net")


def start(gate, w):
    """The state of an initial memory W_0."""
    match gate.kind:
        case "lq" if gate.form == "printed":
            return w if gate.q == 3 else w * norm(w, gate.q) ** ((gate.q - 2) / (3 - gate.q))
        case "lq":
            return w.sign() * w.abs() ** (gate.q - 1) / norm(w, gate.q) ** (gate.q - 2)
        case "kl":
            return torch.log(w)
        case "bregman" if gate.link == "sigmoid":
            return torch.log(w / (1 - w))
        case "elastic_net" if gate.form == "ftrl":
            return w + gate.sparsity * w.sign()
    return w if gate.kind in RETENTIONS else gate.start(w)


def orthogonal(x):
    """Five Newton-Schulz steps on the smaller side."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-2, -1) if tall else x
    x = x / torch.sqrt((x * x).sum((-2, -1), keepdim=True) + 1e-12)
    for _ in range(5):
        a = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.transpose(-2, -1) if tall else x


def stabilised(algorithm, g, h, step):
    """One token's gradient `[B, H, out, in]`, with the factors that the algorithm asks for."""
    length = (h * h).sum(-1)[..., None, None]
    if getattr(algorithm, "normalize", False):
        g = g / (length + 1e-6)
    if getattr(algorithm, "clip", None) is not None:
        size = torch.sqrt((g * g).sum((-2, -1), keepdim=True).clamp(min=1e-300))
        g = g * torch.where(size > algorithm.clip, algorithm.clip / size, torch.ones_like(size))
    if algorithm.kind == "implicit":
        g = g / (1 + (step * (h * h)[..., None, :]).sum(-1, keepdim=True))
    return g


def update(variant, old, gates, grad, h):
    """What is carried after a token, by slot; coefficients are `[B, H, 1 or out, 1 or in]`."""
    gate, algorithm, step = variant.retention, variant.algorithm, gates["step"]
    ridged = gate.kind == "l2_local_global" or (
        gate.kind == "elastic_net" and gate.form == "proximal"
    )
    if getattr(algorithm, "average", False):
        step = step / variant.anchor_every
    kept = gates.get("retention", 1.0)
    if ridged:
        kept = 1 / (1 + step * gates["ridge"])
        step = step * kept
    if gate.kind not in RETENTIONS:
        given = gates | {"step": step}
        kept, step = gate.retain(given), step * gate.write(given)
    damp = 1 - gates["momentum"] if getattr(algorithm, "dampening", False) else 1.0
    a = old["weights"]
    match algorithm.kind:
        case "gd" | "multi_step" | "implicit":
            new = {"weights": kept * a - step * grad}
        case "momentum" if algorithm.order == 1:
            s = gates["momentum"] * old["momentum"] - damp * step * grad
            new = {"weights": kept * a + s, "momentum": s}
        case "momentum":
            s = gates["momentum"] * old["momentum"] - damp * step * grad
            s2 = gates["momentum"] * old["momentum2"] + s
            new = {"weights": kept * a + s2, "momentum": s, "momentum2": s2}
        case "nesterov":
            s = gates["momentum"] * old["momentum"] - damp * step * grad
            ahead = gates["momentum"] * s - damp * step * grad
            new = {"weights": kept * a + ahead, "momentum": s}
        case "muon":
            s = gates["momentum"] * old["momentum"] + damp * grad
            new = {"weights": kept * a - step * orthogonal(s), "momentum": s}
        case "adam":
            b, c = gates["momentum"], gates["second"]
            first = b * old["momentum"] + (1 - b) * grad
            second = c * old["second"] + (1 - c) * grad**2
            move = first / torch.sqrt(second + 1e-6)
            new = {"weights": kept * a - step * move, "momentum": first, "second": second}
        case "newton":
            outer = torch.einsum("bhi,bhj->bhij", h, h)
            curvature = kept * old["curvature"] + step * outer
            new = {"weights": kept * a - step * grad, "curvature": curvature}
        case _:
            slots = algorithm.slots
            retain = torch.as_tensor(kept, dtype=a.dtype)
            given = gates | {"step": step}
            moved = algorithm.advance([old[s] for s in slots], grad, h[..., None, :], retain, given)
            new = dict(zip(slots, moved, strict=True))
    if gate.kind == "elastic_net" and gate.form == "proximal":
        new["weights"] = shrink(new["weights"], step * gate.sparsity)
    elif gate.kind not in RETENTIONS:
        new["weights"] = gate.settle(new["weights"], gates | {"step": step})
    return new, kept


def read_from(variant, carried, gates):
    a = carried["weights"]
    if variant.algorithm.kind == "newton":
        damping = gates["damping"].expand(*a.shape[:-2], 1, a.shape[-1])[..., 0, :]
        return a @ torch.linalg.inv(carried["curvature"] + torch.diag_embed(damping))
    return shown(variant.retention, a)


def attention(variant, q, k, v):
    scale = variant.memory.scale or 1 / math.sqrt(k.shape[-1])
    window = getattr(variant.memory, "window", None)
    rows = []
    for t in range(q.shape[1]):
        first = 0 if window is None else max(0, t + 1 - window)
        score = torch.einsum("bhk,bihk->bhi", q[:, t], k[:, first : t + 1]) * scale
        e = torch.exp(score)
        rows.append(torch.einsum("bhi,bihv->bhv", e / e.sum(-1, keepdim=True), v[:, first : t + 1]))
    kept = {"keys": k.transpose(1, 2), "values": v.transpose(1, 2)}
    if window is not None:
        kept = {name: x[:, :, max(0, x.shape[2] - window + 1) :] for name, x in kept.items()}
    return torch.stack(rows, 1), State(kept, q.shape[1])


def gate(variant, gates, name, matrix, t):
    """A coefficient at token t: of the output `[B, H, 1 or V]`, of a matrix with both sides."""
    given = gates.get(f"{name}.{matrix}", gates.get(name))
    (declared,) = (c for c in variant.coefficients() if c.name == name)
    if given is None:
        idle = declared.neutral is not None and t % variant.algorithm.writes != 0
        number = declared.neutral if idle else declared.source
        value = torch.full((1, 1, 1), float(number), dtype=torch.float64)
    else:
        value = given[:, t] if given.dim() == 4 else given[:, t, :, None]
    if declared.acts_on == "output":
        return value
    return value[..., None, :] if declared.per == "input" else value[..., None]


def memorize(variant, q, k, v, gates, weights, state=None, lowering=None) -> tuple[Tensor, State]:
    """Same arguments and results as `miras_search.layer.memorize`, for a whole sequence."""
    if variant.memory.grows:
        return attention(variant, q, k, v)
    batch, tokens = k.shape[:2]
    writes, window = variant.algorithm.writes, getattr(variant.algorithm, "window", 1)
    declared = variant.coefficients()
    of_bias = [c.name for c in declared if c.acts_on == "output"]
    names = [c.name for c in declared if c.acts_on == "weights"]
    carried = {}
    for m, w in weights.items():
        sizes = variant.algorithm.shapes(*w.shape[1:])
        zero = {s: torch.zeros(batch, len(w), *n, dtype=w.dtype) for s, n in sizes.items()}
        begun = start(variant.retention, w) + torch.zeros(batch, *w.shape, dtype=w.dtype)
        carried[m] = zero | {"weights": begun}
    anchor, outputs, graph = {}, [], torch.is_grad_enabled()
    decayed = (
        variant.algorithm.kind == "implicit" or getattr(variant.retention, "at", "") == "decayed"
    )
    for t in range(tokens):
        mine = {m: {n: gate(variant, gates, n, m, t) for n in names} for m in carried}
        if t % variant.anchor_every == 0:
            anchor = {m: slots["weights"] for m, slots in carried.items()}
        if decayed:
            kept = {m: update(variant, carried[m], mine[m], 0.0, 0 * k[:, t])[1] for m in carried}
            anchor = {m: kept[m] * a for m, a in anchor.items()}
        total, h = dict.fromkeys(carried, 0.0), {}
        for i in range(max(0, t + 1 - window), t + 1):
            with torch.enable_grad():
                at = {m: shown(variant.retention, a) for m, a in anchor.items()}
                at = at if graph else {m: w.detach().requires_grad_() for m, w in at.items()}
                bias_gates = {name: gate(variant, gates, name, None, i) for name in of_bias}
                h = {}
                pred = recall(variant.memory, at, k[:, i], h)
                loss = loss_of(variant, pred, v[:, i], bias_gates)
                grads = torch.autograd.grad(loss, list(at.values()), create_graph=graph)
            for m, g in zip(at, grads, strict=True):
                weight = gate(variant, gates, "importance", m, i) if window > 1 else 1.0
                step = mine[m]["step"]
                if variant.retention.kind == "l2_local_global":
                    step = step / (1 + step * mine[m]["ridge"])
                total[m] = total[m] + weight * stabilised(variant.algorithm, g, h[m], step)
        for m in carried:
            carried[m], _ = update(variant, carried[m], mine[m], total[m], h[m])
        if (t + 1) % writes == 0:
            now = {m: read_from(variant, slots, mine[m]) for m, slots in carried.items()}
            outputs.append(recall(variant.memory, now, q[:, t // writes], {}))
    tensors = {f"{slot}/{m}": z for m, slots in carried.items() for slot, z in slots.items()}
    if tokens % variant.anchor_every:
        tensors |= {f"anchor/{m}": a for m, a in anchor.items()}
    if window > 1:
        first = max(0, tokens + 1 - window)
        tensors |= {
            f"window/{n}": x[:, first:].transpose(1, 2) for n, x in (("keys", k), ("values", v))
        }
        for name in (*of_bias, "importance"):
            for key, g in gates.items():
                if key.partition(".")[0] != name:
                    continue
                kept = g[:, first:].transpose(1, 2)
                kept = kept if kept.dim() == 4 else kept[..., None]
                if name != "importance":
                    tensors[f"window/gates/{name}"] = kept
                    continue
                for m in carried:
                    if key in (name, f"{name}.{m}"):
                        tensors[f"window/gates/{name}.{m}"] = kept[..., None]
    return torch.stack(outputs, 1), State(tensors, tokens)

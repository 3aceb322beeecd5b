"""The layers of Titans token by token, in plain torch: an independent second writing."""

import torch
from torch.nn.functional import normalize, silu

from miras_search.nn.rotary import rotate


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight


def projected(projection, x):
    """Linear map, convolution, SiLU of `[T, D]`, one token after another: `[T, parts, H, d]`."""
    y = x @ projection.linear.weight.T
    out = []
    for t in range(len(y)):
        total = torch.zeros_like(y[0])
        kernel = projection.conv.weight[:, 0]  # [channels, kernel]
        for back in range(kernel.shape[1]):
            if t - back >= 0:
                total = total + kernel[:, -1 - back] * y[t - back]
        out.append(silu(total))
    return torch.stack(out).unflatten(-1, (projection.parts, projection.heads, -1))


def window(layer, x, persistent=None):
    """Attention of each token of `[T, D]` to the last ones by their distance, and to persistent
    tokens, which have none."""
    heads, window = layer.attention.heads, layer.window
    always = layer.persistent if persistent is None else persistent

    def heads_of(z, linear):
        return (z @ linear.T).unflatten(-1, (-1, heads, x.shape[1] // heads)).unbind(1)

    (queries,) = heads_of(x, layer.attention.q.weight)
    outputs = []
    for t in range(len(x)):
        begin = max(0, t + 1 - window)
        keys, values = heads_of(x[begin : t + 1], layer.attention.kv.weight)
        turned = rotate(keys.transpose(0, 1), begin)
        q = queries[t][:, None]
        matches, held = [rotate(q, t) @ turned.mT], [values.transpose(0, 1)]
        if always is not None:
            keys, values = heads_of(always, layer.attention.kv.weight)
            matches.append(q @ keys.transpose(0, 1).mT)
            held.append(values.transpose(0, 1))
        chances = (torch.cat(matches, -1) / q.shape[-1] ** 0.5).softmax(-1)
        y = (chances @ torch.cat(held, 1))[:, 0].flatten()
        outputs.append(y @ layer.attention.output.weight.T)
    return torch.stack(outputs)


def mac(layer, x):
    """Memory as context with a matrix memory, delta rule and no decay, for x `[T, D]`.

    Everything of a token is computed from scratch: the memory before its segment by writing all
    earlier attention outputs again.
    """
    cell, heads = layer.cell, layer.attention.heads
    persistent = x.new_zeros(0, x.shape[1]) if layer.persistent is None else layer.persistent
    first, segment = len(persistent), layer.segment
    queries = projected(layer.query, x)[:, 0]
    ys, outputs = [], []

    def memory(count):
        """The matrices after `count` tokens are written, `[H, d, d]`."""
        weights = cell.initial["W"] if "W" in cell.initial else torch.zeros(0)
        if not count:
            return weights
        written = torch.stack(ys[:count])
        kv = projected(layer.write, written)
        step = cell.gates(written[None])["step"][0]
        for t in range(count):
            k, v = normalize(kv[t, 0], dim=-1), kv[t, 1]
            error = torch.einsum("hoi,hi->ho", weights, k) - v
            weights = weights - step[t][:, None, None] * error[:, :, None] * k[:, None, :]
        return weights

    def recall(weights, q):
        y = torch.einsum("hoi,hi->ho", weights, normalize(q, dim=-1))
        return rms(y, cell.norm.weight).flatten()

    def heads_of(z, linear):
        return (z @ linear.T).unflatten(-1, (-1, heads, x.shape[1] // heads))

    for t in range(len(x)):
        begin = t - t % segment
        before = memory(begin)
        h = torch.stack([recall(before, queries[j]) for j in range(begin, t + 1)])
        context = [
            (persistent, 0),
            (h, first),
            (x[begin : t + 1], first + segment),
        ]
        keys, values = [], []
        for z, place in context:
            k, v = heads_of(z, layer.attention.kv.weight).unbind(1)
            keys.append(rotate(k.transpose(0, 1), place))
            values.append(v.transpose(0, 1))
        keys, values = torch.cat(keys, 1), torch.cat(values, 1)
        q = heads_of(x[t : t + 1], layer.attention.q.weight)[:, 0].transpose(0, 1)
        q = rotate(q, first + segment + t - begin)
        chances = (q @ keys.mT / q.shape[-1] ** 0.5).softmax(-1)
        ys.append((chances @ values)[:, 0].flatten() @ layer.attention.output.weight.T)
        m = recall(memory(t + 1), ys[t].unflatten(-1, (heads, -1)))
        a, b = (
            silu(rms(z, norm.weight))
            for z, norm in zip((ys[t], m), layer.product.norms, strict=True)
        )
        outputs.append(layer.product.output.weight @ (a * b))
    return torch.stack(outputs)

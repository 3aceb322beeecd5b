"""The memory layer as one pure function: what every variant means, however it is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from miras_search import legality
from miras_search.lower import kernels
from miras_search.lower.call import State, prepare
from miras_search.lower.chunked import chunked
from miras_search.lower.frozen import frozen
from miras_search.lower.function import no_autocast
from miras_search.lower.reference import reference
from miras_search.lower.surprise import surprise as of_call
from miras_search.plan import choose_lowering
from miras_search.variant import Variant

Lowering = Literal["auto", "reference", "chunked", "compiled", "recomputed"]

_RUN = {
    "reference": reference,
    "chunked": chunked,
    "compiled": partial(chunked, compile=True),
    "recomputed": partial(chunked, recompute=True),
}


R = TypeVar("R")


def _alone(function: Callable[..., R]) -> Callable[..., R]:
    """The same function whatever is around the call: outside of autocast, since what is passed is
    what is used, and of inference mode, where a memory takes gradients too, of which some versions
    of torch make zeros."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> R:
        passed = (x.device for x in (*arguments, *named.values()) if isinstance(x, Tensor))
        with no_autocast(next(passed, torch.device("cpu")).type):
            if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
                return function(*arguments, **named)
            with torch.inference_mode(False), torch.no_grad():
                known = {name: _recordable(x) for name, x in named.items()}
                return function(*map(_recordable, arguments), **known)

    return call


def _recordable(x: Any) -> Any:
    """What autograd may keep: copies of tensors that were made in inference mode."""
    match x:
        case Tensor():
            return x.clone() if x.is_inference() else x
        case Mapping():
            return {name: _recordable(part) for name, part in x.items()}
        case State():
            return State(_recordable(x.tensors), x.position)
    return x


@_alone
def memorize(
    variant: Variant,
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Float[Tensor, "H out in"]] | None,
    state: State | None = None,
    lowering: Lowering = "auto",
) -> tuple[Float[Tensor, "B T H V"], State]:
    """Write each pair (k_t, v_t) into the memory, then read it: y_t = M(q_t; W_t).

    Nothing is scaled or normalised on the way: what is passed is what is used.

    Args:
        variant: the four choices and the chunk; `Variant.from_dict` reads what YAML gives.
        q: queries `[B, T, H, K]`.
        k: keys `[B, T, H, K]`.
        v: values `[B, T, H, V]`.
        gates: for each coefficient in `variant.coefficients()` that is not fixed, its values in
            natural units (retention 1 keeps everything): `[B, T, H]`, or `[B, T, H, channels]`
            with one entry for each value channel (`delta`) or for each row of the memory matrix
            (`step`, `retention`, `momentum`), or each column for a coefficient with `per: input`,
            where the variant has it `per` channel or input.
            "<name>.<matrix>" gives one matrix its own. `multi_step` has n keys, values and gates
            for each query, `[B, T * n, H, ...]`.
        weights: the initial memory W_0 by matrix name, `[H, out, in]` each; None starts a memory
            that can learn from there (a matrix) at a state of zero. Names and shapes:
            `variant.memory.matrices(K, V)`.
        state: what an earlier call returned, to go on from there; `weights` is then not read.
            Any split of a sequence into calls gives the same result. It belongs to its variant
            (chunk included), batch, widths and dtype.
        lowering: "reference" goes token by token and is the definition; "chunked" computes the
            same function a chunk at a time; "auto" takes the cheaper of them. "compiled" is
            "chunked" with whole chunks that take gradients at an anchor through torch.compile,
            which takes a minute or more for each shape of a chunk, and whose backward pass wants
            `retain_graph=False`; "recomputed" is "chunked" with all but linear memories computed
            again, chunk by chunk, in the backward pass; where these are of no use they are "auto".
            All but the first two take a kernel of flash-linear-attention for a linear variant on a
            GPU that has them. Gradients of "reference", "chunked" and "recomputed" have gradients;
            the first two can be mapped by torch.func; forward mode (`jvp`) is for "reference"
            alone.

    Returns:
        The outputs `[B, T, H, V]` and the state after the last token.

    Raises:
        ValueError: a shape, name or dtype is wrong, or the variant is not legal; the message says
            why. Everything has the dtype and the device of q.
    """
    _check(variant)
    if lowering not in get_args(Lowering):
        raise ValueError(f"unknown lowering '{lowering}': expected one of {get_args(Lowering)}")
    call = prepare(variant, q, k, v, gates, weights, state)
    if lowering not in ("reference", "chunked") and kernels.usable(call):
        y, after = kernels.run(call)
    else:
        y, after = _RUN[choose_lowering(variant, lowering).name](call)
    writes = variant.algorithm.writes
    return y.transpose(1, 2)[:, writes - 1 :: writes], after


@_alone
def recall(
    variant: Variant,
    q: Float[Tensor, "B T H K"],
    value_width: int,
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Float[Tensor, "H out in"]] | None,
    state: State | None = None,
) -> Float[Tensor, "B T H V"]:
    """Read without a write: y_t = M(q_t; W) at the memory of `state`, the same for every token.

    Args:
        variant: as for `memorize`.
        q: queries `[B, T, H, K]`.
        value_width: V.
        gates: as for `memorize`; only those that a read looks at matter (the damping of `newton`).
        weights: the initial memory, read where there is no state.
        state: what `memorize` returned. A memory that keeps pairs recalls zero before the first.

    Raises:
        ValueError: as `memorize`.
    """
    _check(variant)
    writes = variant.algorithm.writes
    k = q.repeat_interleave(writes, dim=1) if writes > 1 else q
    v = q.new_zeros(*k.shape[:-1], value_width)
    y = frozen(prepare(variant, q, k, v, gates, weights, state))
    return y.transpose(1, 2)[:, writes - 1 :: writes]


@_alone
def surprise(
    variant: Variant,
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    gates: Mapping[str, Tensor],
    weights: Mapping[str, Float[Tensor, "H out in"]] | None,
    state: State | None = None,
) -> dict[str, Float[Tensor, "B T H"]]:
    """How surprising each token is to a memory that is updated (Titans 2501.00663, section 3.1).

    Token by token whatever the variant's chunk, so slow; nothing is differentiated. The arguments
    are those of `memorize`. With several writes a token it is their mean.

    Returns:
        "loss", the inner loss at the memory just before the token; "gradient", the norm of its
        gradient where it is taken (the anchor), over all matrices; "write", the norm of the change
        of the memory over the token, W_t - W_{t-1}. Nothing, `{}`, for a memory that keeps pairs.

    Raises:
        ValueError: as `memorize`.
    """
    _check(variant)
    if variant.memory.grows:
        return {}
    writes = variant.algorithm.writes
    call = prepare(variant, k[:, writes - 1 :: writes], k, v, gates, weights, state)
    return {
        name: x.unflatten(2, (-1, writes)).mean(3).transpose(1, 2)
        for name, x in of_call(call).items()
    }


def _check(variant: Variant) -> None:
    """Refuse what is no legal variant."""
    if not isinstance(variant, Variant):
        told = f"variant is a {type(variant).__name__}: expected a Variant"
        raise ValueError(f"{told}; Variant.from_dict makes one of plain values")
    if why := legality.reasons(variant):
        raise ValueError("; ".join(why))

"""The conformance suite of a whole variant: every lowering is one causal function of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.layer import Lowering, memorize
from miras_search.memory.base import GrowingMemory, ParametricMemory
from miras_search.testing.inputs import (
    Outputs,
    assert_same,
    close,
    make_inputs,
    numerical,
    rounding,
    run,
)
from miras_search.testing.refusals import check_refusals

if TYPE_CHECKING:
    from miras_search.variant import Variant

TOKENS = 10
"""Length of most checks: two chunks of 4 and a rest."""
LOWERINGS: tuple[Lowering, ...] = ("reference", "chunked")


def check_variant(variant: Variant) -> None:
    """Every check of `VARIANT_CHECKS` and the numerical gradients."""
    for check in (*VARIANT_CHECKS, check_gradients):
        check(variant)


def check_shapes(variant: Variant) -> None:
    """Outputs and state have the documented shapes, for unequal widths too."""
    for key_width, value_width in ((4, 4), (4, 6), (6, 4)):
        if variant.memory.check(key_width, value_width) is not None:
            continue
        inputs = make_inputs(variant, TOKENS, key_width=key_width, value_width=value_width)
        lead, expected = (2, 2), {}
        position = TOKENS * variant.algorithm.writes
        if isinstance(variant.memory, ParametricMemory):
            shapes = variant.memory.matrices(key_width, value_width)
            for m, shape in shapes.items():
                sizes = variant.algorithm.shapes(*shape)
                assert set(sizes) == set(variant.algorithm.slots)
                expected |= {f"{slot}/{m}": (*lead, *size) for slot, size in sizes.items()}
                if position % variant.anchor_every:
                    expected[f"anchor/{m}"] = (*lead, *shape)
            past = min(position, variant.algorithm.window_length - 1)
            if past:
                expected["window/keys"] = (*lead, past, key_width)
                expected["window/values"] = (*lead, past, value_width)
        else:
            assert isinstance(variant.memory, GrowingMemory)
            kept = TOKENS if variant.memory.kept is None else min(TOKENS, variant.memory.kept)
            expected = {"keys": (*lead, kept, key_width), "values": (*lead, kept, value_width)}
        for lowering in LOWERINGS:
            y, state = memorize(
                variant, inputs.q, inputs.k, inputs.v, inputs.gates, inputs.weights, None, lowering
            )
            wanted = (*inputs.q.shape[:-1], value_width)
            assert y.shape == wanted, f"{lowering} gives {tuple(y.shape)}"
            tensors = {n: x for n, x in state.tensors.items() if not n.startswith("window/gates")}
            found = {name: tuple(x.shape) for name, x in tensors.items()}
            assert found == expected, f"{lowering} carries {found}: expected {expected}"
            assert state.position == position
            assert state.nbytes == sum(8 * x.numel() for x in state.tensors.values())


def check_lowerings_agree(variant: Variant) -> None:
    """Chunked equals reference at this chunk and at 1: outputs, state and gradients."""
    for chunk in sorted({1, variant.chunk}):
        at = variant.replace(chunk=chunk)
        inputs = make_inputs(at, TOKENS, seed=chunk)
        one, two = (run(at, inputs, lowering, gradients=True) for lowering in LOWERINGS)
        assert one.y.isfinite().all(), (
            f"{at}: the reference is not finite; a smaller initial_std or step may keep it so"
        )
        assert_same(at, inputs, two, one, f"{at}: chunked against reference")
        largest = one.y.abs().max().item()
        assert 0.01 < largest < 1000, f"{at}: outputs of {largest:.3g} prove nothing"
        if variant.gradient_is_constant:
            whole = run(variant.replace(chunk=chunk + 4), inputs, "chunked", gradients=True)
            assert_same(at, inputs, whole, one, f"{at}: exact at any chunk")


def check_splits(variant: Variant) -> None:
    """Any split of the tokens into calls gives the same, even if the lowering changes midway."""
    inputs = make_inputs(variant, TOKENS)
    slow, fast = LOWERINGS
    whole = run(variant, inputs, fast, gradients=True)
    values = Outputs(whole.y, whole.state)
    cases: tuple[tuple[tuple[int, ...], tuple[Lowering, ...]], ...] = (
        ((1,), (fast,)),
        ((4, 8), (fast,)),
        (tuple(range(1, TOKENS)), (fast,)),
        ((5,), (slow,)),
        ((4, 6), (fast, slow)),
        ((3, 5, 6), (slow, fast)),
    )
    for splits, lowerings in cases:
        derive = len(splits) == 3
        parts = run(variant, inputs, splits=splits, lowerings=lowerings, gradients=derive)
        what = f"{variant}: split at {splits} in {lowerings}"
        assert_same(variant, inputs, parts, whole if derive else values, what)


def check_causal(variant: Variant) -> None:
    """Another suffix leaves the outputs before it as they were, in value and in gradient."""
    first, other = (make_inputs(variant, TOKENS, seed=seed) for seed in (0, 1))
    for lowering in LOWERINGS:
        before = run(variant, first, lowering).y
        for cut in (1, 6, 8):
            after = run(variant, first.mixed(other, cut), lowering).y
            close(after[:, :cut], before[:, :cut], f"{lowering}: before token {cut}", 1e-12)
            assert not torch.equal(after[:, cut:], before[:, cut:]), "the suffix has no effect"
        leaves = first.map_tokens(lambda x: x.detach().clone().requires_grad_())
        y = run(variant, leaves, lowering).y
        sequences = leaves.sequences()
        found = torch.autograd.grad(
            y[:, :6].sum(), sequences, allow_unused=True, materialize_grads=True
        )
        for g in found:
            assert not leaves.tokens(g, 6).any(), (
                f"{lowering}: an output has a gradient in a later token"
            )


def check_samples_are_independent(variant: Variant) -> None:
    """Another sample 1, even one of NaN, leaves sample 0 as it was; so do other heads."""
    first, other = (make_inputs(variant, TOKENS, seed=seed) for seed in (0, 1))
    for lowering in LOWERINGS:
        before = run(variant, first, lowering)
        alone = run(variant, first.map_tokens(lambda x: x[:1]), lowering)
        close(alone.y, before.y[:1], f"{lowering}: sample 0 alone", 1e-12)
        for value in (None, float("nan")):
            mixed = first.map_tokens(torch.clone)
            for x, y in zip(mixed.sequences(), other.sequences(), strict=True):
                x[1:] = y[1:] if value is None else value
            after = run(variant, mixed, lowering)
            close(after.y[0], before.y[0], f"{lowering}: sample 0 beside another", 1e-12)
            for name, x in after.state.items():
                close(x[0], before.state[name][0], f"{lowering}: {name} of sample 0", 1e-12)
        mixed = first.map_tokens(torch.clone)
        for x, y in zip(mixed.sequences(), other.sequences(), strict=True):
            x[:, :, 1:] = y[:, :, 1:]
        after = run(variant, mixed, lowering)
        close(after.y[:, :, 0], before.y[:, :, 0], f"{lowering}: head 0 beside another", 1e-12)


def check_poison(variant: Variant) -> None:
    """NaN in a later token stays there, and nothing reads memory that was never written.

    The chunked form multiplies the writes of later tokens of the same chunk by zero, which
    keeps NaN, so there the promise is about earlier chunks.
    """
    inputs = make_inputs(variant, TOKENS)
    poisoned, cut = inputs.map_tokens(torch.clone), 9
    for x in poisoned.sequences():
        poisoned.tokens(x, cut)[:] = float("nan")
    clean = run(variant, inputs).y
    after = run(variant, poisoned, "reference").y
    close(after[:, :cut], clean[:, :cut], "reference: before a poisoned token")
    if variant.anchor_every > 1 and not variant.memory.grows:
        writes = variant.algorithm.writes
        start = (cut * writes // variant.anchor_every) * variant.anchor_every // writes
        after = run(variant, poisoned, "chunked").y
        close(after[:, :start], clean[:, :start], "chunked: before a poisoned chunk")
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        for lowering in LOWERINGS:
            close(run(variant, inputs, lowering).y, clean, f"{lowering}: in poisoned memory")
    finally:
        torch.use_deterministic_algorithms(False)


def check_precision(variant: Variant) -> None:
    """float32 gives what float64 gives to a few parts in 10^4, in the type it was given."""
    inputs = make_inputs(variant, TOKENS)
    exact = run(variant, inputs, "reference").y
    slack = rounding(variant, inputs, torch.finfo(torch.float32).eps, gradients=False)["y"]
    for lowering in LOWERINGS:
        y = run(variant, inputs.map(lambda x: x.float()), lowering).y
        assert y.dtype == torch.float32, f"{lowering} turns float32 into {y.dtype}"
        close(y.double(), exact, f"{lowering} in float32", 5e-4, slack)


def check_grad_modes(variant: Variant) -> None:
    """no_grad and inference_mode compute what grad mode computes, and build no graph."""
    inputs = make_inputs(variant, TOKENS).map(lambda x: x.requires_grad_())
    for lowering in LOWERINGS:
        expected = run(variant, inputs, lowering).y
        assert expected.requires_grad, f"{lowering}: no graph in grad mode"
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                y = run(variant, inputs, lowering, splits=(6,)).y
                assert not y.requires_grad
                close(y.clone(), expected.detach(), f"{lowering} in {mode.__name__}")


def check_gradients(variant: Variant) -> None:
    """Analytic gradients are the numerical ones (float64, a tiny shape, both lowerings)."""
    inputs = make_inputs(variant, 3, batch=1, heads=1, key_width=2)
    small = variant.replace(chunk=min(variant.chunk, 2))
    named = inputs.tensors()
    values = [x.detach().requires_grad_() for x in named.values()]

    for lowering in LOWERINGS:

        def outputs(*values: Tensor, lowering: Lowering = lowering) -> Tensor:
            given = iter(values)
            out = run(small, inputs.map(lambda _: next(given)), lowering)  # pyright: ignore[reportArgumentType]
            return torch.cat([x.flatten() for x in out.tensors().values()])

        # Where rounding is amplified, a longer step drowns it.
        assert any(numerical(outputs, values, eps) for eps in (1e-6, 1e-5, 1e-4)), (
            f"{small}: the gradients of {lowering} are not the numerical ones"
        )


VARIANT_CHECKS = (
    check_shapes,
    check_lowerings_agree,
    check_splits,
    check_causal,
    check_samples_are_independent,
    check_poison,
    check_precision,
    check_grad_modes,
    check_refusals,
)
"""What every legal variant passes; `check_gradients` is kept apart because it is slow."""

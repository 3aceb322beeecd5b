"""The conformance suite of a layer of a model: one causal function, attention and all.

Every check takes a `Layer` and the variant whose memory it is built around.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from miras_search.nn.gates import Gate
from miras_search.nn.projection import Projection
from miras_search.nn.state import nbytes
from miras_search.testing.inputs import GENTLE, close, numerical

if TYPE_CHECKING:
    from miras_search.layer import Lowering
    from miras_search.macro.base import Layer
    from miras_search.nn.state import LayerState
    from miras_search.variant import Variant

WIDTH, TOKENS = 8, 14
LOWERINGS: tuple[Lowering, ...] = ("reference", "chunked")


def check_layer(layer: Layer, variant: Variant) -> None:
    """Every check of `LAYER_CHECKS` and the numerical gradients."""
    for check in (*LAYER_CHECKS, check_layer_gradients):
        check(layer, variant)


def check_layer_shapes(layer: Layer, variant: Variant) -> None:
    """Outputs are as wide as inputs, samples stay apart in the state, every parameter learns."""
    module, x = _module(layer, variant), _tokens()
    y, state = module(x)
    assert y.shape == x.shape, f"{layer} gives {tuple(y.shape)} for {tuple(x.shape)}"
    held = [z for part in state.values() for z in part.tensors.values()]
    assert all(z.shape[0] == len(x) for z in held), f"{layer}: a state without its samples"
    assert nbytes(state) == sum(z.nbytes for z in held)
    # Twice: what a layer does with its state is part of it. Larger: a threshold is a gate that
    # learns from what exceeds it alone.
    again, _ = module(4 * x, state)
    (y.square().mean() + again.square().mean()).backward()
    for name, parameter in module.named_parameters():
        g = parameter.grad
        assert g is not None, f"{layer}: {name} has no gradient"
        assert g.isfinite().all(), f"{layer}: the gradient of {name} is not finite"
        assert g.abs().max() > 1e-14, f"{layer}: the gradient of {name} is zero"


def check_layer_lowerings(layer: Layer, variant: Variant) -> None:
    """Reference and chunked give the same outputs, states and gradients."""
    one, two = (_run(_module(layer, variant, x), _tokens()) for x in LOWERINGS)
    _same(two, one, f"{layer}: chunked against reference")


def check_layer_splits(layer: Layer, variant: Variant) -> None:
    """Any split of the tokens into calls gives the same outputs, state and gradients."""
    module = _module(layer, variant)
    whole = _run(module, _tokens())
    for splits in ((1,), (4, 8), (3, 5, 6, 11), tuple(range(1, TOKENS))):
        _same(_run(module, _tokens(), splits), whole, f"{layer}: split at {splits}")


def check_layer_causal(layer: Layer, variant: Variant) -> None:
    """Another suffix leaves the outputs before it as they were, in value and in gradient."""
    for lowering in LOWERINGS:
        module, x = _module(layer, variant, lowering), _tokens()
        before = module(x)[0].detach()
        for cut in (1, 5, 6, TOKENS - 1):
            mixed = torch.cat([x[:, :cut], _tokens(1)[:, cut:]], dim=1)
            after = module(mixed)[0].detach()
            close(after[:, :cut], before[:, :cut], f"{layer}: before token {cut}", 1e-12)
            assert not after[:, cut].allclose(before[:, cut]), "the suffix has no effect"
            leaf = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(module(leaf)[0][:, :cut].sum(), leaf)
            assert not g[:, cut:].any(), f"{layer}: an output has a gradient in a later token"


def check_layer_samples(layer: Layer, variant: Variant) -> None:
    """Another sample 1, even one of NaN, leaves sample 0 as it was, and its state."""
    for lowering in LOWERINGS:
        module, x = _module(layer, variant, lowering), _tokens()
        with torch.no_grad():
            y, state = module(x)
            close(module(x[:1])[0], y[:1], f"{layer}: sample 0 alone", 1e-12)
            for other in (_tokens(1)[1], float("nan")):
                mixed = x.clone()
                mixed[1] = other
                after, changed = module(mixed)
                close(after[0], y[0], f"{layer}: sample 0 beside another", 1e-12)
                for name, z in _flat(changed).items():
                    close(z[0], _flat(state)[name][0], f"{layer}: {name} of sample 0", 1e-12)


def check_layer_precision(layer: Layer, variant: Variant) -> None:
    """float32 gives what float64 gives; bfloat16 autocast, whose 8 bits a memory may amplify, is
    nearer to it than nothing: zeros are 1 of its size away, what is unrelated 1.4."""
    module, x = _module(layer, variant), _tokens()
    with torch.no_grad():
        exact = module(x)[0]
        module = module.float()
        y = module(x.float())[0]
        assert y.dtype == torch.float32
        close(y.double(), exact, f"{layer} in float32", 2e-3)
        with torch.autocast(x.device.type, torch.bfloat16):
            y = module(x.float())[0]
        far = (y.double() - exact).norm() / exact.norm()
        assert far < 0.9, f"{layer} of {variant} in bfloat16: {far:.2f} of its size away"


def check_layer_memory(layer: Layer, variant: Variant) -> None:
    """Nothing reads memory that was never written."""
    module, x = _module(layer, variant), _tokens()
    with torch.no_grad():
        clean = module(x)[0]
        torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
        try:
            close(module(x)[0], clean, f"{layer}: in poisoned memory", 1e-12)
        finally:
            torch.use_deterministic_algorithms(False)


def check_layer_gradients(layer: Layer, variant: Variant) -> None:
    """Analytic gradients are the numerical ones, of inputs and parameters (float64)."""
    for lowering in LOWERINGS:
        module = _module(layer, variant, lowering)
        names, values = zip(*module.named_parameters(), strict=True)

        def outputs(x: Tensor, *given: Tensor, module: nn.Module = module, names: Any = names):
            return torch.func.functional_call(module, dict(zip(names, given, strict=True)), (x,))[0]

        given = [_tokens()[:1, :7].requires_grad_(), *(p.detach().clone() for p in values)]
        given = [z.requires_grad_() for z in given]
        # At 1e-7 curvature and kinks no longer show, and rounding does not yet.
        assert numerical(outputs, given, 1e-7), (
            f"{layer} of {variant}: the gradients of {lowering} are not the numerical ones"
        )


LAYER_CHECKS = (
    check_layer_shapes,
    check_layer_lowerings,
    check_layer_splits,
    check_layer_causal,
    check_layer_samples,
    check_layer_precision,
    check_layer_memory,
)
"""What every layer passes with every legal variant; the numerical gradients are slow."""


def _module(layer: Layer, variant: Variant, lowering: Lowering = "chunked") -> nn.Module:
    """A layer in float64 whose keys and values are of order 1 and whose steps are gentle."""
    torch.manual_seed(0)
    module = layer.mixer(variant, WIDTH, lowering).double()
    with torch.no_grad():
        for inner in module.modules():
            if isinstance(inner, Projection):
                inner.linear.weight *= 4
            if isinstance(inner, Gate) and inner.coefficient.name == "step":
                inner.bias.add_(math.log(GENTLE))
    return module


def _tokens(seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, TOKENS, WIDTH, generator=rng, dtype=torch.float64)


def _flat(state: LayerState) -> dict[str, Tensor]:
    return {f"{part}:{n}": z for part, held in state.items() for n, z in held.tensors.items()}


def _run(module: nn.Module, x: Tensor, splits: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Outputs, state, and gradients of a projection of both."""
    leaf = x.clone().requires_grad_()
    state, outputs = None, []
    for piece in leaf.tensor_split(splits, dim=1):
        y, state = module(piece, state)
        outputs.append(y)
    assert state is not None
    y, held = torch.cat(outputs, dim=1), _flat(state)
    total = y.square().sum() + sum(z.sin().sum() for z in held.values())
    named = {"x": leaf, **dict(module.named_parameters())}
    found = torch.autograd.grad(total, list(named.values()))
    gradients = {f"gradient of {name}": g for name, g in zip(named, found, strict=True)}
    return {"y": y.detach(), **{n: z.detach() for n, z in held.items()}, **gradients}


def _same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found)}, not {sorted(expected)}"
    for name, z in found.items():
        close(z, expected[name], f"{what}: {name}", 1e-7)

"""The conformance suite of an attentional bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.testing.component import check_coefficients, check_component
from miras_search.testing.inputs import close

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miras_search.bias.base import Bias

LEAD, WIDTH = (2, 3), 5
"""Tokens `[2, 3]` of `WIDTH` value channels."""


def check_bias(bias: Bias) -> None:
    """A loss that sums over channels, its true gradient, and finite derivatives of both.

    Points are random, so that kinks are met with probability 0.
    """
    check_component(bias)
    check_coefficients(bias.coefficients())
    for gates in _gates(bias):
        check_gradient_of_loss(bias, gates)
        check_silent_channel(bias, gates)
        check_zero_residual(bias, gates)
        check_tokens_are_independent(bias, gates)
        check_bias_facts(bias, gates)


def check_gradient_of_loss(bias: Bias, gates: dict[str, Tensor]) -> None:
    """`gradient` is the derivative of `loss`, and can itself be differentiated."""
    pred, target = _points()
    loss = bias.loss(pred, target, gates)
    assert loss.shape == LEAD, f"loss has shape {tuple(loss.shape)}: expected {LEAD}"
    (expected,) = torch.autograd.grad(loss.sum(), pred)
    actual = bias.gradient(pred, target, gates)
    assert actual.shape == pred.shape, (
        f"gradient has shape {tuple(actual.shape)}: expected {tuple(pred.shape)}"
    )
    close(actual, expected, f"{bias}: gradient against autograd of loss")
    names = list(gates)

    def gradient(pred: Tensor, target: Tensor, *values: Tensor) -> Tensor:
        return bias.gradient(pred, target, dict(zip(names, values, strict=True)))

    points = (pred, target, *(g.detach().clone().requires_grad_() for g in gates.values()))
    assert torch.autograd.gradcheck(gradient, points)


def check_silent_channel(bias: Bias, gates: dict[str, Tensor]) -> None:
    """A channel that recalls 0 where 0 is wanted changes nothing in the others: no mean."""
    if not bias.adds_channels or any(g.dim() and g.shape[-1] == WIDTH for g in gates.values()):
        return
    pred, target = _points()
    silent = pred.new_zeros(*LEAD, 1)
    wider = bias.gradient(torch.cat([pred, silent], -1), torch.cat([target, silent], -1), gates)[
        ..., :WIDTH
    ]
    close(wider, bias.gradient(pred, target, gates), f"{bias}: with a silent channel")


def check_zero_residual(bias: Bias, gates: dict[str, Tensor]) -> None:
    """Derivatives of first and second order are finite where the memory recalls exactly v."""
    for zeroed in (1, WIDTH):
        pred, target = _points()
        target = torch.cat([pred[..., :zeroed], target[..., zeroed:]], -1).detach()
        target.requires_grad_()
        values = {name: g.detach().clone().requires_grad_() for name, g in gates.items()}
        for name, value in (
            ("loss", bias.loss(pred, target, values)),
            ("gradient", bias.gradient(pred, target, values)),
        ):
            for order, derivative in enumerate(
                _derivatives(value, [pred, target, *values.values()])
            ):
                assert derivative.isfinite().all(), (
                    f"{bias}: derivative {order} of the {name} is not finite at a residual of 0"
                )


def check_tokens_are_independent(bias: Bias, gates: dict[str, Tensor]) -> None:
    """What is poisoned at one token stays there."""
    pred, target = (x.detach() for x in _points())
    loss, gradient = bias.loss(pred, target, gates), bias.gradient(pred, target, gates)
    broken = target.clone()
    broken[1] = float("nan")
    close(bias.loss(pred, broken, gates)[0], loss[0], f"{bias}: loss beside a poisoned token")
    beside = bias.gradient(pred, broken, gates)[0]
    close(beside, gradient[0], f"{bias}: gradient beside a poisoned token")


def check_bias_facts(bias: Bias, gates: dict[str, Tensor]) -> None:
    """`uses_prediction` and `quadratic` are what is measured."""
    pred, target = _points()
    here, there = (bias.gradient(p, target, gates) for p in (pred, 2 * pred))
    moved = not torch.equal(here, there)
    assert moved == bias.uses_prediction, (
        f"{bias}: the gradient {'depends' if moved else 'does not depend'} on the prediction, "
        f"uses_prediction is {bias.uses_prediction}"
    )
    if bias.quadratic:
        close(here, pred - target, f"{bias}: quadratic, so the gradient is the residual")


def _points(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Recalled and wanted values `[*LEAD, WIDTH]` with residuals on both sides of 1."""
    rng = torch.Generator().manual_seed(seed)
    pred, target = torch.randn(2, *LEAD, WIDTH, generator=rng, dtype=torch.float64).unbind()
    return pred.requires_grad_(), target.requires_grad_()


def _gates(bias: Bias) -> Iterator[dict[str, Tensor]]:
    """Values of the coefficients as scalars, per head and, where declared, per channel."""
    rng = torch.Generator().manual_seed(1)
    wanted = bias.coefficients()
    yield {
        c.name: torch.tensor(c.initial if isinstance(c.source, str) else c.source).double()
        for c in wanted
    }
    if not wanted or all(c.fixed for c in wanted):
        return
    for channels in {1, *(WIDTH for c in wanted if c.per == "channel")}:
        share = torch.rand(*LEAD, channels, generator=rng, dtype=torch.float64)
        yield {c.name: c.low + (c.initial - c.low) * (0.5 + share) for c in wanted}


def _derivatives(value: Tensor, points: list[Tensor]) -> Iterator[Tensor]:
    """The value, its derivatives and the derivatives of those."""
    yield value
    for _ in range(2):
        if not value.requires_grad:
            return
        found = torch.autograd.grad(
            value.sum(), points, create_graph=True, allow_unused=True, materialize_grads=True
        )
        yield from found
        value = torch.cat([x.flatten() for x in found])

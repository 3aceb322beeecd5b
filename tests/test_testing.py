"""The shipped suites themselves: each wrong component below is caught, for the right reason."""

import inspect
from typing import Annotated, ClassVar, Literal

import pytest
import torch
from pydantic import Field

from miras_search import testing
from miras_search.algorithm.base import Transition
from miras_search.algorithm.gd import Gd
from miras_search.algorithm.momentum import Momentum
from miras_search.bias.l2 import L2
from miras_search.bias.lp import Lp
from miras_search.component import Component
from miras_search.memory.attention import Attention
from miras_search.memory.matrix import Matrix
from miras_search.memory.mlp import Mlp
from miras_search.retention.l2 import L2 as L2Retention
from miras_search.variant import Variant


class Ascent(L2):
    """The gradient has the wrong sign."""

    def gradient(self, pred, target, gates):
        return target - pred


class Mean(L2):
    """A mean over channels."""

    def loss(self, pred, target, gates):
        return (pred - target).square().mean(-1) / 2

    def gradient(self, pred, target, gates):
        return (pred - target) / pred.shape[-1]


class Unsmoothed(Lp):
    """The sign of r by a division of 0 by 0."""

    def gradient(self, pred, target, gates):
        r = pred - target
        return r * r.abs().pow(self.p - 2)


class Blind(L2):
    """A false fact."""

    uses_prediction: ClassVar[bool] = False


class OverTheBatch(L2):
    """Tokens meet in a sum."""

    def loss(self, pred, target, gates):
        return super().loss(pred, target, gates) + 0 * pred.sum()

    def gradient(self, pred, target, gates):
        return super().gradient(pred, target, gates) + 0 * target.sum()


class Twice(Matrix):
    """A map is called twice."""

    def apply(self, maps, x):
        return (maps["W"](x) + maps["W"](x)) / 2


class NotLinear(Mlp):
    """A false fact."""

    linear: ClassVar[bool] = True


class LearnsFromZero(Mlp):
    """A false fact."""

    @property
    def learns_from_zero(self):
        return True


class BatchNorm(Mlp):
    """Positions meet in a mean."""

    def apply(self, maps, x):
        y = super().apply(maps, x)
        return y - y.mean(0)


class Unmasked(Attention):
    """Reads the future."""

    def read(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class Grows(L2Retention):
    """A factor above 1."""

    def retain(self, gates):
        return 1 + gates["retention"]


class Forgets(L2Retention):
    """A false fact."""

    keeps_everything: ClassVar[bool] = True


class OneSlot(Momentum):
    """Fewer slots than the transition has."""

    @property
    def slots(self):
        return ("weights",)


class LooksBack(Momentum):
    """The sum of gradients takes from the state."""

    def transition(self, retain, gates):
        first, (_, b) = super().transition(retain, gates).carry
        return Transition(carry=(first, (0.5, b)), inject=(1.0, 1.0))


class IgnoresRetention(Gd):
    """The retention gate is dropped."""

    def transition(self, retain, gates):
        return Transition(carry=((1.0,),), inject=(1.0,))


WRONG = [
    (Ascent(), "against autograd of loss"),
    (Mean(), "silent channel"),
    (Unsmoothed(p=1.0), "residual of 0|against autograd"),
    (Blind(), "uses_prediction"),
    (OverTheBatch(), "beside a poisoned token"),
    (Twice(), "expected each once"),
    (NotLinear(), "linear"),
    (LearnsFromZero(), "learns_from_zero"),
    (BatchNorm(), "beside a poisoned position"),
    (Unmasked(), "the last"),
    (Grows(), "grows the memory"),
    (Forgets(), "keeps_everything"),
    (LooksBack(), "looks at the state"),
    (OneSlot(), "1 slots"),
    (IgnoresRetention(), "no effect"),
]


@pytest.mark.parametrize(("component", "why"), WRONG, ids=lambda x: type(x).__name__)
def test_a_wrong_component_is_caught(component, why):
    with pytest.raises(AssertionError, match=why):
        testing.CHECKS[component.axis](component)


def test_a_wrong_gradient_is_caught_in_a_variant():
    right = Variant.from_dict(
        {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd", "chunk": 4}
    )
    testing.check_variant(right)
    with pytest.raises(AssertionError, match="chunked against reference"):
        testing.check_variant(right.replace(bias=Ascent()))


def test_cases_follow_the_fields():
    class Fields(Component):
        a: Literal["x", "y"] = "x"
        b: bool = False
        c: Annotated[int, Field(ge=1, le=4)] = 2
        d: Annotated[float, Field(ge=0, le=1)] | None = None
        e: Literal["data"] | Annotated[float, Field(gt=0)] = "data"

    found = testing.cases_of(Fields)
    assert found[0] == Fields()
    assert {(f.a, f.b) for f in found} == {("x", False), ("y", False), ("x", True)}
    assert {f.c for f in found} == {1, 2, 3, 4}
    assert {None, 0.0, 1.0} < {f.d for f in found}
    assert {f.e for f in found} == {"data", 0.05}


def test_the_facade_names_documented_functions():
    for name in testing.__all__:
        thing = getattr(testing, name)
        assert not callable(thing) or inspect.getdoc(thing), f"{name} has no docstring"

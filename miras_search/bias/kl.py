"""The relative entropy of distributions: the memory recalls logits, and the value is logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from miras_search.bias.base import Bias
from miras_search.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class Kl(Bias):
    """KL(softmax(v) || softmax(M(k))): what is written is the difference of two distributions."""

    kind: ClassVar[str] = "kl"
    equation: ClassVar[str] = "l = KL(softmax(v) || softmax(M(k)))"
    source: ClassVar[str] = "Kullback and Leibler 1951; not in MIRAS"

    adds_channels: ClassVar[bool] = False

    def loss(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        wanted, recalled = target.log_softmax(-1), pred.log_softmax(-1)
        return (wanted.exp() * (wanted - recalled)).sum(-1)

    def gradient(self, pred: Tensor, target: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        return pred.softmax(-1) - target.softmax(-1)

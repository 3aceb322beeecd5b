"""Where the next point comes from: Optuna's samplers and an exhaustive grid over a space."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna

from miras_search.space import Rejection
from miras_search.variant import Variant

if TYPE_CHECKING:
    from miras_search.nodes import Chooser, Range
    from miras_search.recipe import Recipe
    from miras_search.space import Space

LR = "lr"
"""Name of the learning rate among the parameters of a trial."""


@dataclass(frozen=True)
class Proposal:
    """One point: a variant in its simplest form, and the learning rate to train it with."""

    variant: Variant
    lr: float
    recipe: Recipe
    """At the variant's own size."""

    @property
    def key(self) -> tuple[str, float]:
        """Equal for points that would train the same model twice."""
        return (self.variant.digest, self.lr)


def draw(space: Space, recipe: Recipe, chooser: Chooser) -> Proposal | Rejection:
    """One point of the space and of the recipe's learning rates."""
    point = space.draw(chooser)
    if isinstance(point, Rejection):
        return point
    own = recipe.sized(point.canonical)
    if isinstance(own, Rejection):
        return own
    return Proposal(point.canonical, float(recipe.lr.draw(LR, chooser)), own)


def sampler(recipe: Recipe, trial: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial.

    Each trial has a generator of its own, so that a proposal depends on the seed, the number
    and the results so far, and on nothing a restart would lose.
    """
    seed = random.Random(f"{recipe.seed}/{trial}").getrandbits(32)
    if recipe.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # While several trials run, each counts as bad: the others look elsewhere.
            return optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=seed
            )
    return optuna.samplers.RandomSampler(seed=seed)


@dataclass(frozen=True)
class OptunaChooser:
    """Asks an Optuna trial, define-by-run."""

    trial: optuna.Trial

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        return labels.index(self.trial.suggest_categorical(name, labels))

    def number(self, name: str, range: Range) -> float | int:
        low, high, step = range.low, range.high, range.step
        if range.scale == "integer":
            return self.trial.suggest_int(name, int(low), int(high), step=int(step or 1))
        log = range.scale == "log_uniform" and step is None
        return self.trial.suggest_float(name, low, high, step=step, log=log)


def grid(space: Space, recipe: Recipe) -> dict[tuple[str, float], dict[str, Any]]:
    """The parameters of every distinct point by its key, for `Study.enqueue_trial`.

    Variants come in an order shuffled by the seed, the learning rates of a variant one after
    another: a budget that ends early has tuned some variants and not touched the others.
    Space and learning rates are finite.
    """
    points: dict[str, dict[float, dict[str, Any]]] = {}
    for proposal, parameters in _walks(space, recipe):
        digest, lr = proposal.key
        points.setdefault(digest, {}).setdefault(lr, parameters)
    order = sorted(points)
    random.Random(recipe.seed).shuffle(order)
    return {(digest, lr): p for digest in order for lr, p in points[digest].items()}


def _walks(space: Space, recipe: Recipe) -> Iterator[tuple[Proposal, dict[str, Any]]]:
    """Every feasible sequence of answers to the questions of a draw, in order."""
    odometer = Odometer()
    while True:
        odometer.rewind()
        point = draw(space, recipe, odometer)
        if isinstance(point, Proposal):
            yield point, dict(odometer.answers)
        if not odometer.advance():
            return


class Odometer:
    """A chooser that gives the first answer to every new question, and steps on from the last."""

    def __init__(self) -> None:
        self.wheels: list[tuple[int, int]] = []
        self.asked = 0
        self.answers: dict[str, Any] = {}

    def rewind(self) -> None:
        """Begin a draw."""
        self.asked, self.answers = 0, {}

    def advance(self) -> bool:
        """Turn the last wheel that can turn; False when every answer was given."""
        del self.wheels[self.asked :]
        while self.wheels:
            position, size = self.wheels.pop()
            if position + 1 < size:
                self.wheels.append((position + 1, size))
                return True
        return False

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        position = self._turn(len(labels))
        self.answers[name] = labels[position]
        return position

    def number(self, name: str, range: Range) -> float | int:
        values = list(range.values())
        self.answers[name] = values[self._turn(len(values))]
        return self.answers[name]

    def _turn(self, size: int) -> int:
        if self.asked == len(self.wheels):
            self.wheels.append((0, size))
        self.asked += 1
        return self.wheels[self.asked - 1][0]

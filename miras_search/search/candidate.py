"""One point to try, and who answers when one is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from miras_search.space import Rejection
from miras_search.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import optuna
    from optuna.distributions import BaseDistribution

    from miras_search.nodes import Chooser, Range
    from miras_search.recipe import Recipe
    from miras_search.space import Space

LR = "lr"
"""Name of the learning rate among the answers."""

Question: TypeAlias = "tuple[str, ...] | Range"
"""The labels of a choice, or where a number lies."""


@dataclass(frozen=True)
class Candidate:
    """One point: a variant in its simplest form, and the learning rate to train it with.

    Candidates are equal if they would train the same model twice.
    """

    variant: Variant = field(compare=False)
    lr: float
    recipe: Recipe = field(compare=False)
    """At the variant's own size."""
    answers: Mapping[str, Any] = field(compare=False)
    """What was answered, by the names of the questions: labels and numbers."""
    digest: str = ""
    """Of the variant."""

    @property
    def key(self) -> tuple[str, float]:
        """What tells it from others: digest and learning rate."""
        return (self.digest, self.lr)


@dataclass(frozen=True)
class Draw:
    """What a chooser's answers lead to, feasible or not."""

    written: Variant | Rejection
    """The variant as it is written in the space."""
    lr: float
    recipe: Recipe | Rejection
    """At the variant's own size, or why there is none."""
    answers: dict[str, Any]
    questions: dict[str, Question]
    """What was asked, by name."""

    @property
    def candidate(self) -> Candidate | None:
        """None if the point was rejected."""
        variant, recipe = self.written, self.recipe
        if isinstance(variant, Rejection) or isinstance(recipe, Rejection):
            return None
        return Candidate(variant.canonical, self.lr, recipe, self.answers, variant.digest)


def draw(space: Space, recipe: Recipe, chooser: Chooser) -> Draw:
    """One point of the space and one of the recipe's learning rates."""
    listener = _Listener(chooser)
    written = space.draw(listener)
    lr = float(recipe.lr.draw(LR, listener))
    variant = written if isinstance(written, Variant) else None
    own = recipe if variant is None else recipe.sized(variant.canonical)
    return Draw(written, lr, own, listener.answers, listener.questions)


class _Listener:
    """Passes questions on to another chooser, and writes down what is asked and answered."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.answers: dict[str, Any] = {}
        self.questions: dict[str, Question] = {}

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        position = self.chooser.choice(name, labels)
        self.questions[name], self.answers[name] = labels, labels[position]
        return position

    def number(self, name: str, range: Range) -> float | int:
        value = range.nearest(self.chooser.number(name, range))
        self.questions[name], self.answers[name] = range, value
        return value


@dataclass(frozen=True)
class Remembered:
    """Answers as before, where the question was asked before; whatever is new is put to another."""

    answers: Mapping[str, Any]
    other: Chooser

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        if self.answers.get(name) in labels:
            return labels.index(self.answers[name])
        return self.other.choice(name, labels)

    def number(self, name: str, range: Range) -> float | int:
        return self.answers[name] if name in self.answers else self.other.number(name, range)


@dataclass(frozen=True)
class OptunaChooser:
    """Asks an Optuna trial, define-by-run."""

    trial: optuna.Trial

    def choice(self, name: str, labels: tuple[str, ...]) -> int:
        return labels.index(self.trial.suggest_categorical(name, labels))

    def number(self, name: str, range: Range) -> float | int:
        asked: Any = distribution(range)
        if range.scale == "integer":
            return self.trial.suggest_int(name, asked.low, asked.high, step=asked.step)
        return self.trial.suggest_float(name, asked.low, asked.high, step=asked.step, log=asked.log)


def distribution(question: Question) -> BaseDistribution:
    """The question in Optuna's words."""
    from optuna import distributions as of

    if isinstance(question, tuple):
        return of.CategoricalDistribution(question)
    low, high, step = question.low, question.high, question.step
    if question.scale == "integer":
        return of.IntDistribution(int(low), int(high), step=int(step or 1))
    log = question.scale == "log_uniform" and step is None
    return of.FloatDistribution(float(low), float(high), step=step, log=log)


class Odometer:
    """A chooser that gives the first answer to every new question, and steps on from the last."""

    def __init__(self) -> None:
        self.wheels: list[tuple[int, int]] = []
        self.asked = 0

    def rewind(self) -> None:
        """Begin a draw."""
        self.asked = 0

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
        return self._turn(len(labels))

    def number(self, name: str, range: Range) -> float | int:
        return range.at(self._turn(range.count() or 0))

    def _turn(self, size: int) -> int:
        if self.asked == len(self.wheels):
            self.wheels.append((0, size))
        self.asked += 1
        return self.wheels[self.asked - 1][0]


def every(space: Space, recipe: Recipe) -> Iterator[Draw]:
    """All that can be drawn where there is an end to it, the last question changing fastest."""
    odometer = Odometer()
    while True:
        odometer.rewind()
        yield draw(space, recipe, odometer)
        if not odometer.advance():
            return

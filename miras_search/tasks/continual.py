"""Continual learning: episodes that follow each other, and questions about any that were read."""

from __future__ import annotations

from functools import lru_cache
from math import perm
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.registry import register
from miras_search.tasks.base import Count, Levels, Metric, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miras_search.data.examples import Rows
    from miras_search.data.streams import Streams

TURNS = ("facts", "classes", "domains")
"""What the episodes of a mixed stream teach, over and over."""
_ODDS = 1e-3
"""The largest odds of two equal examples anywhere."""


@register
class Continual(Task):
    """Learn on the job: nothing but the memory changes from episode to episode.

    An example is a stream of `episodes`. Each teaches something new by `items` times `shots`
    lessons of `cue` + 1 tokens. Questions, each 0 and then a cue, come after it: `questions` about
    every episode, each at a random time from there on, so that what was learned has to be kept.
    Only they are scored. Everything is drawn anew for each example, so that it can be learned in
    no other way than by reading. What is taught depends on `stream`:

    - facts: new cues (1 .. vocab/2 - 1) and their answers (vocab/2 .. vocab - 1), to be told
      exactly. The target at the end of a cue is its answer.
    - classes: the same, but wherever a cue is seen each of its tokens is replaced with probability
      `noise` by any: lessons and questions are different examples of a class.
    - domains: text in a new language, which is a cycle through `items` tokens of 1 .. vocab - 1
      that is left for any place on it with probability `noise`. A question is further text, and
      each of its next tokens is a target. Languages share tokens by accident: more with less vocab.
    - mixed: these three in turn, first facts, then classes, then a language, then facts again.

    A stream of facts with episodes 2, items 2, questions 2 (train, seed 0, the first):

        token    58 243   50 164 |   0  50    0  58 | 108 141   66 193 |   0  66    0 108
        target    .   .    .   . |   . 164    . 243 |   .   .    .   . |   . 193    . 141
                cue ans  cue ans |     ask      ask | cue ans  cue ans |     ask      ask

    The further evaluation "after2-on1" reads episodes 1 and 2 and is then asked about episode 1
    alone: cell (2, 1) of the accuracy matrix of continual learning, which `report/continual.py`
    sums up. As a state can be carried, and any split of a sequence gives the same logits, this is
    the memory after episode 1 carried to episode 2 and tested there, with nothing learned from the
    tests of other cells. All cells are about the same streams and all cells of an episode ask the
    same questions: they differ in what was read in between. They may go beyond the episodes that
    were trained on. Of an episode before it is read, domains alone are asked ("after1-on2"): its
    first text is learned from, and all else would be chance.
    """

    kind: ClassVar[str] = "continual"
    equation: ClassVar[str] = "E1 .. Ei, x of Ej -> y"
    source: ClassVar[str] = "Lopez-Paz and Ranzato 1706.08840; facts as in Zoology 2312.04927"
    metric: ClassVar[Metric] = "accuracy"
    small: ClassVar[Mapping[str, Any]] = {
        "episodes": 2,
        "items": 2,
        "questions": 2,
        "vocab": 64,
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_episodes": 3,
    }

    stream: Literal["facts", "classes", "domains", "mixed"] = "facts"
    """What episodes teach."""
    episodes: Count = 3
    """Episodes of an example of "train", "validation" and "test"."""
    items: Count = 4
    """Facts or classes of an episode, or tokens of a language."""
    shots: Count = 1
    """Lessons of each item."""
    cue: Count = 1
    """Tokens of a question."""
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a token of a class, or a step in a language, is any."""
    questions: Count = 4
    """Questions about each episode; the n-th is about item n modulo items."""
    train_examples: Count = 20_000
    eval_examples: Count = 500
    """Examples in each held-out split."""
    evaluate_episodes: Annotated[int, Field(ge=0)] = 6
    """Episodes of the accuracy matrix; 0 leaves it out."""
    vocab: Count = 256
    """Number of distinct tokens."""

    length: ClassVar[property] = property(  # pyright: ignore[reportIncompatibleVariableOverride]
        lambda self: self.episodes * (self.items * self.shots + self.questions) * (self.cue + 1)
    )

    @model_validator(mode="after")
    def _noise_suits(self) -> Continual:
        if self.stream == "facts" and self.noise:
            raise ValueError("facts are exact: expected noise 0, or stream: classes")
        if self.stream in ("classes", "mixed") and not self.noise:
            raise ValueError("classes are noisy: expected noise above 0, or stream: facts")
        return self

    @model_validator(mode="after")
    def _room(self) -> Continual:
        domains = self.stream == "domains"
        wanted = self.items * (1 if domains else max(self.episodes, self.evaluate_episodes))
        room = self.vocab - 1 if domains else self.vocab // 2 - 1
        if wanted > room:
            raise ValueError(
                f"a vocab of {self.vocab} has {room} tokens for cues, and "
                f"{'a language' if domains else 'a stream'} needs {wanted} different ones: give a "
                f"larger vocab{'' if domains else ', fewer episodes'} or fewer items"
            )
        examples = self.train_examples + 3 * self.eval_examples
        if examples**2 > 2 * _ODDS * self._ways:
            raise ValueError(
                f"there are {self._ways} streams, too few for {examples} examples without a "
                "repeat: give a larger vocab, more items or fewer examples"
            )
        return self

    def kinds(self, episodes: int) -> list[str]:
        """What each of the first episodes teaches."""
        turns = TURNS if self.stream == "mixed" else (self.stream,)
        return [turns[i % len(turns)] for i in range(episodes)]

    @property
    def _ways(self) -> int:
        """Different streams, all as likely, if shown once and without noise."""
        languages = self.kinds(self.episodes).count("domains")
        told = (self.episodes - languages) * self.items
        cues = perm(self.vocab // 2 - 1, told) ** self.cue
        answers = perm(self.vocab - self.vocab // 2, told)
        return cues * answers * perm(self.vocab - 1, self.items) ** languages

    @property
    def vocabulary(self) -> int:
        return self.vocab

    @property
    def cells(self) -> dict[str, tuple[int, int]]:
        """Episodes read and the episode asked about, of each further evaluation."""
        last = self.evaluate_episodes
        return {
            f"after{read}-on{on}": (read, on)
            for read in range(1, last + 1)
            for on, kind in enumerate(self.kinds(last), start=1)
            if on <= read or (on == read + 1 and kind == "domains")
        }

    @property
    def evaluations(self) -> tuple[str, ...]:
        return tuple(self.cells)

    def levels(self, split: str) -> Levels:
        """Chance is any answer, the plateau any that was read: of the stream, or of the language.

        The ceiling of classes is derived, for who knows the prototypes and which tokens were
        replaced, and takes each question alone; if all were, an item of the episode is guessed.
        That of domains is for who knows the language, and unknown where it was not read before.
        Those of a mixed stream are means over all that is scored.
        """
        self.check_split(split)
        if split in self.cells:
            read, on = self.cells[split]
            return self._levels((read,), on)
        every = range(1, self.episodes + 1)
        # A question about an episode comes after it or any later one, with the same odds.
        found = [self._levels(range(on, self.episodes + 1), on) for on in every]
        scored = [self.cue if kind == "domains" else 1 for kind in self.kinds(self.episodes)]
        return Levels(
            **{name: fmean([vars(x)[name] for x in found], scored) for name in vars(found[0])}
        )

    def _levels(self, read: Sequence[int], on: int) -> Levels:
        """Those of questions about the episode `on` after so many episodes, each as likely."""
        kinds = self.kinds(max(*read, on))
        if kinds[on - 1] == "domains":
            known = 1 - self.noise + self.noise / self.items
            ceiling = known if on <= min(read) else None
            return Levels(chance=1 / (self.vocab - 1), plateau=1 / self.items, ceiling=ceiling)
        told = [self.items * (n - kinds[:n].count("domains")) for n in read]
        noise = self.noise if kinds[on - 1] == "classes" else 0.0
        return Levels(
            chance=1 / (self.vocab - self.vocab // 2),
            plateau=fmean(1 / n for n in told),
            ceiling=1 - noise**self.cue * (1 - 1 / self.items),
        )

    def dataset(self, split: str, seed: int) -> Rows:
        self.check_split(split)
        if split in self.cells:
            return _cells(self, seed).after(*self.cells[split])  # pyright: ignore[reportArgumentType]
        return _scattered(self, split, seed)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=2)
def _cells(task: Continual, seed: int) -> Streams:
    return _streams(task, task.evaluate_episodes, task.eval_examples, "cells", seed)


@lru_cache(maxsize=6)
def _scattered(task: Continual, split: str, seed: int) -> Rows:
    from miras_search.data.examples import generator

    examples = task.train_examples if split == "train" else task.eval_examples
    streams = _streams(task, task.episodes, examples, split, seed)
    return streams.scattered(generator("continual", seed, split, "times"))


def _streams(task: Continual, episodes: int, examples: int, name: str, seed: int) -> Streams:
    from miras_search.data.examples import generator
    from miras_search.data.streams import Sizes, of_kinds

    random = generator("continual", seed, name)
    sizes = Sizes(examples, task.items, task.shots, task.cue, task.questions, task.vocab)
    return of_kinds(task.kinds(episodes), sizes, task.noise, random)

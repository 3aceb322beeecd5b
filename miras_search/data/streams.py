"""Streams of episodes with questions about them, a set at a time (see `tasks/continual.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from miras_search.data.examples import Rows
from miras_search.data.recall import distinct
from miras_search.tasks.base import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Streams:
    """All that is told and asked in N streams of E episodes, in blocks of B = cue + 1 tokens.

    Every tensor is int64. Questions about an episode may be asked at any time after its lessons.
    """

    lessons: Tensor
    """`[N, E, L, B]`, in the order in which they are read."""
    questions: Tensor
    """`[N, E, Q, B]`: 0, then the cue."""
    answers: Tensor
    """`[N, E, Q, B]`: targets of the questions."""

    def scattered(self, random: Generator) -> Rows:
        """Examples of whole streams: each question comes after a random episode, of those from its
        own on, and questions after the same episode come in random order."""
        streams, episodes, lessons, _ = self.lessons.shape
        about = torch.arange(episodes)
        shape = self.questions.shape[:3]
        left = torch.rand(shape, generator=random).mul_((episodes - about)[:, None])
        asked = about[:, None] + left.long() + torch.rand(shape, generator=random) / 2 + 0.25
        told = about.repeat_interleave(lessons).expand(streams, -1)
        order = torch.cat([told, asked.flatten(1)], 1).sort(dim=1, stable=True).indices[..., None]
        unscored = torch.full_like(self.lessons, IGNORE)
        tokens, targets = (
            torch.cat([lesson.flatten(1, 2), question.flatten(1, 2)], 1).take_along_dim(order, 1)
            for lesson, question in ((self.lessons, self.questions), (unscored, self.answers))
        )
        return _compact(tokens.flatten(1), targets.flatten(1))

    def after(self, read: int, on: int) -> Rows:
        """Examples that read the first `read` episodes, then answer the questions of the episode
        `on`, counted from 1."""
        lessons = self.lessons[:, :read].flatten(1)
        questions, answers = (
            self.questions[:, on - 1].flatten(1),
            self.answers[:, on - 1].flatten(1),
        )
        unscored = torch.full_like(lessons, IGNORE)
        return _compact(torch.cat([lessons, questions], 1), torch.cat([unscored, answers], 1))


class Sizes(NamedTuple):
    """What every episode of N streams has; see `tasks.continual.Continual` for the fields."""

    streams: int
    """N."""
    items: int
    shots: int
    cue: int
    questions: int
    vocab: int


def of_kinds(kinds: Sequence[str], sizes: Sizes, noise: float, random: Generator) -> Streams:
    """Streams with an episode of each of the kinds, which are "facts", "classes" (the items that
    are noisy) and "domains", in this order."""
    parts = []
    if {*kinds} != {"domains"}:
        noisy = torch.tensor([noise if kind == "classes" else 0.0 for kind in kinds])
        parts.append(of_items(len(kinds), sizes, noisy[:, None, None], random))
    if "domains" in kinds:
        parts.append(of_domains(len(kinds), sizes, noise, random))
    if len(parts) == 1:
        return parts[0]
    text = torch.tensor([kind == "domains" for kind in kinds])[:, None, None]
    both = zip(*(vars(part).values() for part in parts), strict=True)
    return Streams(*(torch.where(text, b, a) for a, b in both))


def of_items(episodes: int, sizes: Sizes, noise: Tensor, random: Generator) -> Streams:
    """Episodes of new items, each a prototype of `cue` tokens with an answer.

    A lesson is the prototype, then the answer. Tokens of a prototype are 1 .. vocab/2 - 1, answers
    vocab/2 .. vocab - 1. No two items of a stream have the same token at the same place, or the
    same answer. Wherever a prototype is shown or asked, each of its tokens is replaced with
    probability `noise` `[E, 1, 1]` by any of 1 .. vocab/2 - 1. An episode has `shots` lessons of
    each item in random order; of the questions about it, the n-th is about item n modulo `items`.
    """
    streams, items, shots, cue, questions, vocab = sizes
    keys = distinct(streams * cue, episodes * items, 1, vocab // 2, random)
    prototypes = keys.view(streams, cue, episodes, items).permute(0, 2, 3, 1)
    answers = distinct(streams, episodes * items, vocab // 2, vocab, random)
    answers = answers.view(streams, episodes, items, 1)

    def seen(which: Tensor) -> Tensor:
        exact = prototypes.take_along_dim(which, 2)
        other = torch.randint(1, vocab // 2, exact.shape, generator=random)
        return torch.where(torch.rand(exact.shape, generator=random) < noise, other, exact)

    told = torch.rand(streams, episodes, items * shots, 1, generator=random).argsort(2) % items
    asked = (torch.arange(questions) % items)[:, None].expand(streams, episodes, -1, -1)
    return Streams(
        lessons=torch.cat([seen(told), answers.take_along_dim(told, 2)], -1),
        questions=pad(seen(asked), (1, 0)),
        answers=pad(answers.take_along_dim(asked, 2), (cue, 0), value=IGNORE),
    )


def of_domains(episodes: int, sizes: Sizes, noise: float, random: Generator) -> Streams:
    """Episodes of text, each in a new language of `items` tokens out of 1 .. vocab - 1.

    A language is a cycle through its tokens. Text begins at any of them; the next token is the next
    of the cycle, or with probability `noise` any token of the cycle. An episode has as much text
    as `shots` lessons of each item; a question is further text, whose every next token is asked.
    """
    streams, items, shots, cue, questions, vocab = sizes
    cycle = distinct(streams * episodes, items, 1, vocab, random).view(streams, episodes, items)

    def text(stretches: int, tokens: int) -> Tensor:
        """`[N, E, stretches, tokens]`."""
        shape = (streams, episodes, stretches, tokens)
        jumps = torch.rand(shape, generator=random) < noise
        jumps[..., 0] = True
        landing = torch.randint(items, shape, generator=random)
        now = torch.arange(tokens)
        last = torch.where(jumps, now, 0).cummax(-1).values
        place = (landing.gather(-1, last) + now - last) % items
        return cycle.take_along_dim(place.flatten(2), 2).view(shape)

    asked = text(questions, cue + 1)
    return Streams(
        lessons=text(1, items * shots * (cue + 1)).view(streams, episodes, -1, cue + 1),
        questions=pad(asked[..., :-1], (1, 0)),
        answers=pad(asked[..., 1:], (1, 0), value=IGNORE),
    )


def _compact(tokens: Tensor, targets: Tensor) -> Rows:
    return Rows(tokens.to(torch.int32), targets.to(torch.int32))

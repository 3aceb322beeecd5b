"""Questions that take one to three facts of a long text to answer."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainSerializer, model_validator

from miras_search.registry import register
from miras_search.tasks.base import Levels
from miras_search.tasks.haystack import Haystack

if TYPE_CHECKING:
    from collections.abc import Mapping

# YAML has lists only; a component has tuples only, to be hashable.
Several = Annotated[int, Field(ge=2)]
Interval = Annotated[tuple[Several, Several], Field(strict=False), PlainSerializer(list)]


@register
class MultiHop(Haystack):
    """Say where someone or something is, or was, by facts strewn over a text, as in BABILong.

    Of an example of length 256 with hops 2 and facts [4, 4] the last word is scored:

        lf.width' Daniel went to the hallway. Mary went to the garden. Daniel picked up the
        milk. or less. (If 'break_long_words' Mary went to the hallway. is false, some lines may
        be longer than this.) Chunks correspond roughly to words Where is the milk? hallway

    | hops | question | facts that answer it | bAbI |
    | --- | --- | --- | --- |
    | 1 | Where is Mary? | where she went last | qa1 |
    | 2 | Where is the milk? | who had it last, and where they were then | qa2 |
    | 3 | Where was the milk before the office? | who had it, where they went and came from | qa3 |

    Facts come in order from a small world of 4 people, 6 places and 3 things, each put between two
    words of running text drawn at random, or several in a row.

    Where it differs from BABILong: facts are from a simulator of its own, with one word for each
    action, where bAbI has several; they stand between words of documentation, not sentences of
    books; and their number is drawn from `facts`, 2 to 10 for qa1, 2 to 68 for qa2 and 4 to 32
    for qa3 there.

    No story, that is facts and question, is in two of training, validation, test and the further
    evaluations.
    """

    kind: ClassVar[str] = "multi_hop"
    equation: ClassVar[str] = "text .. fact .. text .. fact .. question -> place"
    source: ClassVar[str] = "BABILong 2406.10149, section 2; bAbI 1502.05698, tasks 1 to 3"
    small: ClassVar[Mapping[str, Any]] = {
        "length": 256,
        "hops": 2,
        "facts": [2, 5],
        "train_examples": 200,
        "eval_examples": 50,
        "evaluate_at": [400],
        "further_examples": 20,
    }

    hops: Literal[1, 2, 3] = 1
    """Facts that it takes to answer."""
    facts: Interval = (2, 10)
    """Fewest and most facts in an example, every number equally likely."""

    @model_validator(mode="after")
    def _enough_facts(self) -> MultiHop:
        if not self.hops <= self.facts[0] <= self.facts[1]:
            raise ValueError(
                f"facts: expected the fewest, at least {self.hops} for {self.hops} hops, and the "
                f"most, got {[*self.facts]}"
            )
        return self

    @property
    def least(self) -> int:
        from miras_search.data.world import ASKED, FACT

        return self.facts[1] * FACT + ASKED + 1

    def levels(self, split: str) -> Levels:
        """Chance is any place. The plateau, measured on 1000 stories, is to say any place that the
        facts name and the question does not, or the last of them, whichever is right more often."""
        from miras_search.data.world import PLACES, habit

        self.check_split(split)
        return Levels(chance=1 / len(PLACES), plateau=habit(self.hops, self.facts), ceiling=1.0)

    def write(self, split: str, seed: int | None, text: bytes, index: int) -> tuple[bytes, bytes]:
        from miras_search.data.haystack import after, excerpt, hide, home
        from miras_search.data.world import story

        random = Random(f"multi_hop/{split}/{seed}/{index}")
        told = story(self.hops, self.facts, random)
        while home(" ".join((*told.facts, told.question)).encode()) != self.part(split):
            told = story(self.hops, self.facts, random)
        facts = [fact.encode() for fact in told.facts]
        question, answer = f"{told.question} ".encode(), told.answer.encode()
        rest = sum(len(fact) + 1 for fact in facts) + len(question) + len(answer)
        haystack = excerpt(text, self.length_of(split) - rest, random)
        places = sorted(after(haystack, random.random(), b" ") for _ in facts)
        return hide(haystack, facts, places) + question, answer

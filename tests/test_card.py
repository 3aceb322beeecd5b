"""The model card: what it says of a run, and the command that runs it again."""

from __future__ import annotations

import re

import pytest
import study_samples as samples

from miras_search.recipe import Recipe
from miras_search.report.card import card
from miras_search.variant import Variant


def told(devices: int = 1, **known) -> str:
    """The card of a trial that was recorded so."""
    how = samples.recipe()
    record = samples.study(how)[0].model_copy(update=known)
    recipe = Recipe.from_dict(how.to_dict() | {"devices": devices})
    return card("ours", Variant.from_dict(record.variant), record, recipe)


def again(card: str) -> str:
    """The command that trains it again."""
    (found,) = re.findall(r"```sh\n(.*)\n```", card)
    return found


@pytest.mark.parametrize(
    ("threads", "devices", "pinned"),
    [(1, 1, "taskset -c 0 "), (4, 1, "taskset -c 0-3 "), (4, 2, "taskset -c 0-7 "), (None, 1, "")],
)
def test_it_is_trained_again_with_as_many_threads(threads, devices, pinned):
    text = told(threads=threads, devices=devices)
    assert again(text) == f"{pinned}miras-search train variant.yaml recipe.yaml out=again"
    assert "None" not in text.partition("## Train it again")[2]


def test_the_best_of_equal_runs_is_no_better_than_their_mean():
    assert "better than their mean" not in told(phase="finals")

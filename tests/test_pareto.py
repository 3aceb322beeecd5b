"""Fronts of quality and cost."""

import math

import hypothesis.strategies as st
import pytest
import study_samples as samples
from hypothesis import given

from miras_search import pareto

values = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])


@given(st.integers(1, 3).flatmap(lambda k: st.lists(st.tuples(*[values] * k), max_size=12)))
def test_the_front_is_what_nothing_dominates(rows):
    def dominates(one, other):
        pairs = [*zip(one, other, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    known = [row for row in rows if not any(map(math.isnan, row))]
    expected = [row in known and not any(dominates(x, row) for x in known) for row in rows]
    assert [*pareto.front(rows)] == expected


@pytest.mark.parametrize("task", ["mqar", "bytes"])
def test_fronts_of_trials_by_cost(task):
    """Trials are (score, parameters, state): the first is best, the second smaller, the third has
    the smaller state of the same score, the fourth is beaten in all."""
    how = samples.recipe(task)
    sign = 1 if how.task.direction == "maximize" else -1
    found = [
        samples.record(
            number,
            samples.variants()[number],
            1 + sign * score,
            how=how,
            parameters=parameters,
            state_bytes=state,
            flops_per_token=None,
        ).model_copy(update={"seconds": 5.0})
        for number, (score, parameters, state) in enumerate(
            [(0.9, 100, 8), (0.5, 50, 8), (0.5, 60, 4), (0.4, 100, 8)]
        )
    ]
    found.append(samples.record(4, samples.variants()[4], None, how=how))
    assert pareto.fronts(found, how) == {
        0: ["state_bytes", "parameters", "seconds"],
        1: ["parameters"],
        2: ["state_bytes"],
        3: [],
    }

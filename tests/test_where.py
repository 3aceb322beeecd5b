"""Rules against Python itself where both have a meaning, and refusals where only Python has."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_search.errors import InvalidValues
from miras_search.variant import Variant
from miras_search.where import MAX_LENGTH, Rule

BASE = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd"}
VARIANTS = [
    Variant.from_dict(BASE | change)
    for change in (
        {},
        {"memory": {"kind": "mlp", "depth": 3}, "chunk": 16},
        {"bias": {"kind": "lp", "p": 3.0}, "heads": 2},
        {"bias": {"kind": "lp", "p": 1.5}, "algorithm": {"kind": "gd", "step": 0.5}},
    )
]
LP = VARIANTS[2]
L2 = VARIANTS[0]


@pytest.mark.parametrize(
    ("text", "under_lp", "under_l2"),
    [
        ("bias.p == 3", True, False),
        ("bias.p != 3", False, True),
        ("bias.p >= 2", True, False),
        ("bias.p < 2", False, False),
        ("not bias.p < 2", True, True),
        ("bias.p in [2, 3]", True, False),
        ("bias.p not in (2, 3)", False, True),
        ("1 < bias.p <= 3", True, False),
        ("bias.kind == 'lp' and heads == 2", True, False),
        ("memory.kind in ['matrix', 'mlp']", True, True),
        ("algorithm.step > 0.1", False, False),
        ("retention.per <= algorithm.per", False, False),
        ("memory.kind < bias.kind", False, False),
        ("algorithm.max_step == null", True, True),
        ("algorithm.max_step != None", False, False),
        ("-1 < chunk", True, True),
    ],
)
def test_meaning(text, under_lp, under_l2):
    rule = Rule.parse(text)
    assert (rule.holds(LP), rule.holds(L2)) == (under_lp, under_l2)
    assert hash(rule) == hash(Rule.parse(text))


comparisons = st.sampled_from(
    [
        "memory.kind == 'mlp'",
        "bias.kind != 'lp'",
        "chunk > 4",
        "1 <= heads < 4",
        "chunk in [1, 16]",
        "heads not in [2]",
        "qk_norm == 'auto'",
    ]
)
rules = st.recursive(
    comparisons,
    lambda inner: (
        st.builds("({} and {})".format, inner, inner)
        | st.builds("({} or {})".format, inner, inner)
        | st.builds("not {}".format, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rules)
def test_against_python(text):
    for variant in VARIANTS:
        names = {axis: SimpleNamespace(kind=c.kind) for axis, c in variant.axes().items()}
        expected = eval(text, {"__builtins__": {}}, names | variant.side_choices())
        assert Rule.parse(text).holds(variant) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("open('/etc/passwd')", "expected a comparison, got 'open('/etc/passwd')'"),
        ("__import__('os').system('x') == 1", "expected a field, a number or a quoted text"),
        ("bias.__class__ == 2", "unknown field 'bias.__class__'"),
        ("bias.p.real == 2", "expected a field, a number or a quoted text, got 'bias.p.real'"),
        ("bias.p + 1 == 2", "got 'bias.p + 1'"),
        ("(lambda: 1) == 2", "expected a field"),
        ("f'{chunk}' == '2'", "expected a field"),
        ("b'x' == chunk", "expected a field"),
        ("[c for c in chunk] == 2", "expected a field"),
        ("(chunk := 3) == 3", "expected a field"),
        ("chunk", "expected a comparison, got 'chunk'"),
        ("True", "expected a comparison"),
        ("chunk is 3", "expected one of == != < <= > >= in not in"),
        ("chunk == 3; chunk", "not a rule"),
        ("chunk ==", "not a rule"),
        ("", "not a rule"),
        ("chunk == '\x00'", "not a rule"),
        ("chnk == 3", "unknown field 'chnk': did you mean 'chunk'?"),
        ("bias.q == 3", "unknown field 'bias.q': did you mean 'bias.p'?"),
        ("memory.kind == mlp", "unknown field 'mlp': write the kind in quotes, 'mlp'"),
        ("memory.kind == 'mpl'", "unknown memory 'mpl': did you mean 'mlp'?"),
        ("memory.kind in ['mlp', 'matrx']", "unknown memory 'matrx': did you mean 'matrix'?"),
        ("memory.kind == ['mlp']", "unknown memory"),
        ("bias.form == 'norms'", "bias.form: expected 'coordinate', 'norm' or 'mixture'"),
        ("chunk in 'abc'", "expected a list after 'in'"),
        ("chunk in 3", "expected a list after 'in'"),
        ("bias.p > 'a'", "expected a number beside '>', got 'a'"),
        ("chunk in [[1]]", "expected a field, a number or a quoted text, got '[1]'"),
        ("not " * 45 + "chunk == 1", "nested too deeply"),
        ("(" * 300 + "chunk == 1" + ")" * 300, "not a rule"),
        ("chunk == 1" + " or chunk == 1" * 100, f"at most {MAX_LENGTH} characters"),
        ("-" * 900 + "1 == chunk", "rule"),
        (3, "expected a rule as text, got 3"),
    ],
)
def test_refused(text, told):
    with pytest.raises(InvalidValues) as caught:
        Rule.parse(text, ("where", 2))
    ((path, sentence),) = caught.value.found
    assert path == ("where", 2)
    assert told in sentence

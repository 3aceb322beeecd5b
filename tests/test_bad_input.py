"""Every mistake a file can have: one message each, with the exact line, all at once."""

import os
import re
from pathlib import Path

import pytest

from miras_search.errors import UserError
from miras_search.recipe import load_pair
from miras_search.space import Space

GOOD = "memory: matrix\nbias: l2\nretention: none\nalgorithm: gd\n"


def problems(load, *args) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(*args)
    return caught.value.problems


def told(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problems of a space with this text, without the name of the file."""
    file = folder / "x.yaml"
    file.write_text(text)
    return [line.removeprefix(f"{file}:") for line in problems(Space.load, file, overrides)]


def test_all_errors_of_a_file_at_once(tmp_path):
    text = """\
memroy: matrix
memory: [mlpp, {kind: mlp, depth: [1, 9], expansio: 2}, matrix, matrix]
bias:
  - kind: lp
    p: {uniform: [5, 2]}
  - kind: lp
    p: {log_uniform: [0, 2], step: 1}
  - kind: lp
    p: {uniform: [1.5, 4], step: 0.4}
  - kind: lp
    p: {uniform: [.nan, 4]}
  - {kind: huber, form: norm, per: channel}
retention: []
algorithm: {step: 1}
chunk: {integer: [0, 4.5]}
heads: no
conv: {integers: [0, 4]}
gate_rank: {integer: [0, 4]}
include: [nope]
where:
  - memory.kind == 'mpl'
"""
    expected = [
        (1, "memroy: unknown key 'memroy': did you mean 'memory'?"),
        (2, "memory[0]: unknown memory 'mlpp': did you mean 'mlp'?"),
        (2, "memory[1].depth[1]: expected at most 4, got 9"),
        (2, "memory[1].expansio: unknown key 'expansio': did you mean 'expansion'?"),
        (2, "memory[3]: choice given twice: matrix"),
        (5, "bias[0].p.uniform: expected low below high, got [5, 2]"),
        (7, "bias[1].p.step: unknown key 'step': expected one of: log_uniform"),
        (7, "bias[1].p.log_uniform: expected ends above 0, got [0, 2]"),
        (7, "bias[1].p.log_uniform[0]: expected at least 1.0, got 0.0"),
        (9, "bias[2].p.step: 4.0 is not 1.5 plus a number of steps of 0.4"),
        (11, "bias[3].p.uniform: expected two numbers, [low, high], got [.nan, 4]"),
        (12, "bias[4]: form norm bounds one length, so its threshold is per head"),
        (13, "retention: expected at least one choice, got an empty list"),
        (14, "algorithm: expected one algorithm kind of "),
        (15, "chunk.integer: expected two whole numbers, [low, high], got [0, 4.5]"),
        (16, "heads: expected a whole number, got False"),
        (17, "conv: expected a value, a list of choices, or "),
        (18, "gate_rank.integer[0]: expected at least 1, got 0"),
        (19, "include[0]: no space 'nope': expected one of: "),
        (21, "where[0]: unknown memory 'mpl': did you mean 'mlp'? in rule: memory.kind == 'mpl'"),
    ]
    lines = sorted(told(tmp_path, text), key=lambda line: int(line.split(":")[0]))
    assert len(lines) == len(expected)
    for line, (number, sentence) in zip(lines, expected, strict=True):
        assert line.startswith(f"{number}: {sentence}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: expected keys and values, got nothing"]),
        ("# only a comment", ["1: expected keys and values, got nothing"]),
        ("- a", ["1: expected keys and values, got a list"]),
        ("abc", ["1: expected keys and values, got a value"]),
        ("a:\n  - [1, 2", ["2: not valid YAML: expected ',' or ']', but got '<stream end>'"]),
        ("a: 1\n\tb: 2", ["2: not valid YAML: found character '\\t' that cannot start any token"]),
        ("a: 1\n---\nb: 2", ["2: not valid YAML: but found another document"]),
        ("a: \x00", ["1: not valid YAML: unacceptable character #x0000: special characters"]),
        (GOOD + "chunk: 1\nbias: dot", ["6: bias: key given twice, first on line 2"]),
        ("a: &x 1\nb: *x", ["2: alias '*x' is not read: write ${path.to.value}"]),
        ("a: 1\nb: !!python/object/apply:os.system ['x']", ["2: tag 'tag:yaml.org,2002:python"]),
        ("1: 2\nno: 3", ["1: expected a name as key, got 1", "2: expected a name as key, got no"]),
        ("a: " + "[" * 30 + "]" * 30, ["1: nested too deeply"]),
        ("[" * 3000, ["1: nested too deeply"]),
        (GOOD + "chunk: ${oc.env:HOME}", ["5: chunk: only plain references such as ${a.b}"]),
        (GOOD + "chunk: ${heads}", ["5: chunk: '${heads}' refers to nothing in this file"]),
        (
            GOOD + "chunk: ${heads}\nheads: ${conv}\nconv: ${chunk}",
            [
                "5: chunk: '${heads}' refers to a reference: name what that refers to",
                "6: heads: '${conv}' refers to a reference",
                "7: conv: '${chunk}' refers to",
            ],
        ),
        (GOOD + "chunk: '${${heads}}'", ["5: chunk: only plain references"]),
        (GOOD + "chunk: " + "9" * 5000, ["1: not valid YAML: Exceeds the limit"]),
        (GOOD + "heads: {integer: [1, " + "9" * 400 + "]}", ["5: heads.integer: expected two"]),
        (
            "memory: matrix\nbias: {kind: lp, p: {uniform: [1, 2], step: 1.1e-30}}\n"
            "retention: none\nalgorithm: gd",
            ["2: bias.p.step: 2.0 is not 1.0 plus a number of steps of 1.1e-30"],
        ),
        (GOOD + "name: 3", ["5: name: expected text, got 3"]),
        (GOOD + "where: {a: 1}", ["5: where: expected a list, got {'a': 1}"]),
        (GOOD + "union: []", ["5: union: expected a list, got []"]),
        (
            "memory: matrix\nbias: l2",
            ["1: the axis 'retention' is required", "1: the axis 'algorithm' is required"],
        ),
        (
            "bias: l2\nretention: none\nunion:\n- {name: a, memory: matrix}\n- published/yaad",
            ["3: union: the axis 'algorithm' is required in a"],
        ),
        (
            GOOD + "union:\n- {name: a}\n- {name: a, chunk: 2}",
            ["5: union: two sub-spaces are called 'a'"],
        ),
        (GOOD + "union:\n- chnk: 3", ["6: union[0].chnk: unknown key 'chnk': did you mean"]),
        (GOOD + "include: published/yad", ["5: include: no space 'published/yad': did you mean"]),
        (GOOD + "include: x", ["5: include: 'x' includes itself: x -> x"]),
        (GOOD + "include: [3]", ["5: include[0]: expected the name of a space, got 3"]),
        (GOOD + "include: core", ["5: include: 'core' is a union: name it under union"]),
        (
            "memory: attention\nbias: [dot, l2]\nretention: none\nalgorithm: gd\n"
            "where: [bias.kind != 'l2']",
            [
                "5: where: no feasible variant, all 2 combinations rejected: "
                "1 x attention answers with the closed-form solution of l2 regression; "
                "dot has none; "
                "1 x where: bias.kind != 'l2'",
            ],
        ),
    ],
)
def test_one_mistake_each(tmp_path, text, expected):
    lines = told(tmp_path, text)
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), line


def test_problems_of_an_included_file_name_that_file(tmp_path):
    (tmp_path / "low.yaml").write_text("chunk: 2\nheads: 0\n")
    (tmp_path / "a.yaml").write_text("include: b\n")
    (tmp_path / "b.yaml").write_text("\ninclude: a\n")
    lines = problems(Space.load, _written(tmp_path / "x.yaml", "include: low\nmemory: matrx\n"))
    assert f"{tmp_path}/low.yaml:2: heads: expected at least 1, got 0" in lines
    assert f"{tmp_path}/x.yaml:2: memory: unknown memory 'matrx': did you mean 'matrix'?" in lines
    assert problems(Space.load, tmp_path / "a.yaml") == [
        f"{tmp_path}/b.yaml:2: include: 'a' includes itself: a -> b -> a"
    ]


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_files_that_cannot_be_read(tmp_path):
    good = _written(tmp_path / "good.yaml", GOOD)
    assert problems(Space.load, tmp_path / "god.yaml") == [
        f"{tmp_path}/god.yaml: no such file; did you mean 'good.yaml'?"
    ]
    assert problems(Space.load, tmp_path) == [f"{tmp_path}: expected a YAML file"]
    good.write_bytes(b"\xff\xfe\x00")
    assert problems(Space.load, good) == [f"{good}: expected text in UTF-8"]
    good.write_text("# " + "x" * 70_000)
    assert problems(Space.load, good) == [f"{good}: expected at most 65536 bytes of YAML"]
    if os.geteuid():
        good.chmod(0)
        assert problems(Space.load, good) == [f"{good}: cannot be read: Permission denied"]


def test_overrides(tmp_path):
    text = GOOD + "union: [{name: a, chunk: 1}]"
    given = ["chunk=abc", "chnk=3", "memory=mpl", "union[0].biass.p=dot", "union[9]=3", "conv.a=1"]
    assert told(tmp_path, text, *given) == [
        "command line 'union[9]=3': there is no union[9] to set",
        "command line 'memory=mpl': unknown memory 'mpl': did you mean 'mlp'?",
        "command line 'chunk=abc': expected a whole number, got 'abc'",
        "command line 'chnk=3': unknown key 'chnk': did you mean 'chunk'?",
        "command line 'conv.a=1': conv: expected a value, a list of choices, or a range "
        "{uniform | log_uniform | integer: [low, high]}, got {a: 1}",
        "command line 'union[0].biass.p=dot': union[0].biass: unknown key 'biass': "
        "did you mean 'bias'?",
    ]
    space, recipe = tmp_path / "s.yaml", tmp_path / "r.yaml"
    space.write_text(GOOD)
    recipe.write_text("task: mqar\nlr: 1e-3\nsize: {width: 8}\n")
    assert problems(load_pair, space, recipe, ["size[0]=3"]) == [
        "command line 'size[0]=3': unknown key '0': expected one of: layers, mlp, width"
    ]
    broken = [*told(tmp_path, "heads: ${bias[0]}\n" + GOOD)]
    assert broken == ["1: heads: '${bias[0]}' refers to nothing in this file"]
    assert told(tmp_path, GOOD, "x", "chunk=[", "chunk=${oc.env:HOME}") == [
        "command line 'x': expected key=value, such as size.width=64",
        "command line 'chunk=[': not valid YAML: expected the node content, "
        "but found '<stream end>'",
        "command line 'chunk=${oc.env:HOME}': value: only plain references such as ${a.b} are read",
    ]


def test_both_files_and_the_command_line_at_once(tmp_path):
    space = _written(tmp_path / "s.yaml", GOOD + "chunk: 0\n")
    recipe = _written(
        tmp_path / "r.yaml", "task: mqarr\nsize: {width: 2, layer: 2}\nsteps: 1e3\nlr: 0\n"
    )
    assert problems(load_pair, space, recipe, ["step=2", "name=x", "batch=0", "y"]) == [
        "command line 'step=2': unknown key 'step': did you mean 'steps'?",
        "command line 'name=x': the space and the recipe have names",
        "command line 'y': expected key=value, such as size.width=64",
        f"{space}:5: chunk: expected at least 1, got 0",
        "command line 'batch=0': expected at least 1, got 0",
        f"{recipe}:1: task: unknown task 'mqarr': did you mean 'mqar'?",
        f"{recipe}:2: size.width: expected at least 4, got 2",
        f"{recipe}:2: size.layer: unknown key 'layer': did you mean 'layers'?",
        f"{recipe}:3: steps: expected a whole number, got 1000.0",
        f"{recipe}:4: lr: expected more than 0.0, got 0",
    ]


def test_messages_cannot_steer_the_terminal(tmp_path):
    (line,) = told(tmp_path, GOOD.replace("matrix", '"\\e[2J\\n"'))
    assert "unknown memory '\\x1b[2J\\n'" in line
    assert re.fullmatch(r"[ -~]+", line)


def test_references_are_followed(tmp_path):
    file = _written(tmp_path / "x.yaml", GOOD + "chunk: [4, 16]\nheads: ${chunk[0]}\n")
    (heads,) = Space.load(file).values("heads")
    assert heads == 4
    assert Space.load(file, ["chunk=[8, 16]"]).values("heads") == [8]

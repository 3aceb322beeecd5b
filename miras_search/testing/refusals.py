"""Wrong calls of `memorize` are refused with a sentence that says what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from miras_search.layer import memorize
from miras_search.testing.inputs import make_inputs

if TYPE_CHECKING:
    from miras_search.variant import Variant

BATCH, TOKENS, HEADS, WIDTH = 2, 3, 2, 4


def check_refusals(variant: Variant) -> None:
    """Tensors of a wrong shape, missing or unknown ones, and an unknown lowering."""
    inputs = make_inputs(variant, TOKENS, batch=BATCH, heads=HEADS, key_width=WIDTH)
    good = {
        "q": inputs.q,
        "k": inputs.k,
        "v": inputs.v,
        "gates": inputs.gates,
        "weights": inputs.weights,
    }
    tokens = TOKENS * variant.algorithm.writes
    lead, of_q = (BATCH, tokens, HEADS), (BATCH, TOKENS, HEADS)
    zeros = torch.zeros
    wrong: list[tuple[dict[str, object], str]] = [
        ({"q": zeros(*of_q, WIDTH + 1)}, str((*of_q, WIDTH))),
        ({"q": zeros(1, *of_q[1:], WIDTH)}, str((*of_q, WIDTH))),
        ({"v": zeros(BATCH, tokens + 1, HEADS, WIDTH)}, str((*lead, WIDTH))),
        ({"k": zeros(BATCH, tokens, WIDTH)}, "4 dimensions"),
        ({"gates": inputs.gates | {"stepp": zeros(lead)}}, "stepp"),
        ({"weights": (inputs.weights or {}) | {"nothing": zeros(1)}}, "nothing"),
        ({"lowering": "fast"}, "chunked"),
        ({name: x[:, :0] for name, x in good.items() if isinstance(x, Tensor)}, "no tokens"),
    ]
    for name, gate in inputs.gates.items():
        left = {n: g for n, g in inputs.gates.items() if n != name}
        wrong.append(({"gates": left}, name.partition(".")[0]))
        for gates in (left, left | {name: gate[:, 1:]}, left | {name: zeros(*lead, 3)}):
            wrong.append(({"gates": gates}, str(lead)))
    for name, w in (inputs.weights or {}).items():
        left = {n: x for n, x in (inputs.weights or {}).items() if n != name}
        wrong.append(({"weights": left | {name: w[:, 1:]}}, str(tuple(w.shape))))
        if not getattr(variant.memory, "learns_from_zero", False):
            wrong.append(({"weights": left}, str(tuple(w.shape))))
    for change, expected in wrong:
        _refused(variant, good | change, expected)


def _refused(variant: Variant, arguments: dict[str, object], expected: str) -> None:
    try:
        memorize(variant, **arguments)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        message = str(error)
    else:
        shown = {n: getattr(x, "shape", x) for n, x in arguments.items()}
        raise AssertionError(f"accepted {shown}, where {expected} was expected")
    assert expected in message, f"the message {message!r} does not name {expected!r}"

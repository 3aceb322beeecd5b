"""Plain-text equations of components as HTML."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_SCRIPT = re.compile(r"([_^])(?:\{([^{}]*)\}|(\w))")
_SYMBOLS = {"grad ": "∇", "||": "‖", "<=": "≤", ">=": "≥", "sum_": "Σ_", " - ": " − "}


def html(equation: str) -> Markup:
    """Escaped, with `_t` and `^{t-1}` as subscripts and superscripts."""
    for plain, symbol in _SYMBOLS.items():
        equation = equation.replace(plain, symbol)
    parts: list[Markup] = []
    end = 0
    for found in _SCRIPT.finditer(equation):
        tag = "sub" if found[1] == "_" else "sup"
        inside = escape((found[2] or found[3] or "").replace("-", "−"))
        parts += [escape(equation[end : found.start()]), Markup(f"<{tag}>{inside}</{tag}>")]
        end = found.end()
    return Markup("").join([*parts, escape(equation[end:])])

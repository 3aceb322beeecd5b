"""Matplotlib figures as SVG: alone, or in a page with its fonts and colours, light and dark.

Colours that should follow the page are drawn as the placeholders below and replaced in the
finished text, because matplotlib has no notion of a colour that is decided later.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAGE = "#010203", "#717273", "#d1d2d3", "#fdfcfb"
"""Text and axes, secondary text, lines behind the data, and the background."""

SERIES = ("#0172b1", "#d55d01", "#018f6a", "#b1559b", "#a97a01", INK)
"""After Okabe and Ito: told apart by every common form of colour vision."""

MARKERS = ("o", "s", "^", "D", "v", "X")
"""One for each of `SERIES`: colour is never the only difference."""

_PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted, #6b7280)"}
_PAGE_COLOURS |= {GRID: "var(--rule, #d9dce1)", PAGE: "var(--page, #fff)"}
_PAGE_COLOURS |= {c: f"var(--series-{i}, {c})" for i, c in enumerate(SERIES) if c != INK}

_HOVER = "hover:"

_WIDTH = 4.4
"""Inches. Text is legible when the page shrinks the figure to a phone or doubles it."""

_STYLE: Any = {
    "svg.fonttype": "none",
    # A name in the data must never be read as mathematics.
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 1.0,
}


@contextmanager
def canvas(height: float) -> Iterator[Figure]:
    """An empty figure, `height` inches high, and the style to draw it in."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def hover(dots: PathCollection, words: Sequence[str]) -> None:
    """What a browser shows of each dot under the mouse; nothing where there are no words."""
    # Matplotlib knows links and no titles; `drawn` makes the one of the other.
    dots.set_urls([_HOVER + quote(told) if told else None for told in words])


def drawn(figure: Figure, name: str, label: str) -> str:
    """An `<svg>` element that stands alone, whose ids begin with `name`; the same figure gives the
    same text. `label` is what a screen reader says."""
    import matplotlib

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", facecolor=PAGE, metadata=no_metadata)
    text = re.sub(r"<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)
    opening = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', text)
    assert opening is not None
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{opening[1]} role="img" aria-label={quoteattr(label)} stroke-linejoin="round">'
        + text[opening.end() :]
    )
    text = re.sub(
        rf'<a xlink:href="{_HOVER}([^"]*)"[^>]*>(.*?)</a>',
        lambda found: f"<g><title>{escape(unquote(found[1]))}</title>{found[2]}</g>",
        text,
        flags=re.DOTALL,
    )
    return re.sub(r'((?: id=|href=)"#?|url\(#)', rf"\1{name}-", text).strip() + "\n"


def on_page(text: str) -> str:
    """What was `drawn`, in the fonts and the colours of the page that it is put in."""
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for placeholder, colour in _PAGE_COLOURS.items():
        text = text.replace(placeholder, colour)
    return text


def write(figure: Figure, file: Path) -> None:
    """A file that stands alone, on a light page; the same figure gives the same file."""
    import matplotlib

    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": file.stem}):
        figure.savefig(file, format="svg", facecolor=PAGE, metadata={"Date": None})

"""What in a text surprises the memories of a trained byte model: a figure.

    python docs/demos/surprise.py TRIAL TEXT FIGURE.svg

TRIAL is the folder of a trial on bytes, such as runs/<study>/trials/00000; the figure shows the
first 480 bytes of TEXT, each shaded by how badly the memory of the last layer knew it, and how much
it then changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from miras_search import load

LINE, BYTES = 60, 480
PANELS = {"loss": "inner loss before the byte", "write": "change of the memory at the byte"}


def main(trial: str, text: str, figure: str) -> None:
    """Measure, draw, and print the means."""
    from matplotlib.figure import Figure

    model = load(trial)
    content = Path(text).read_bytes()[:BYTES]
    found, _ = model.surprise(torch.tensor([[*content]]))
    layers = [i for i, layer in enumerate(found) if layer]
    if not layers:
        sys.exit(f"{trial}: no layer of this model has a memory that is updated")
    lines = -(-len(content) // LINE)
    drawing = Figure(figsize=(8, 0.36 * lines * len(PANELS) + 1), layout="constrained")
    for axes, (name, label) in zip(drawing.subplots(len(PANELS)), PANELS.items(), strict=True):
        values = found[layers[-1]][name][0].mean(-1)  # over heads
        shown = torch.full((lines * LINE,), float("nan"))
        shown[: len(content)] = values
        image = axes.imshow(shown.view(lines, LINE), aspect="auto", cmap="viridis")
        for i, byte in enumerate(content):
            letter = chr(byte) if 32 < byte < 127 else ("·" if byte == 10 else "")
            bright = values[i] > values.min() + 0.6 * (values.max() - values.min())
            axes.text(
                i % LINE,
                i // LINE,
                letter,
                ha="center",
                va="center",
                family="monospace",
                fontsize=7,
                color="black" if bright else "white",
                parse_math=False,
            )
        axes.set(title=f"Layer {layers[-1] + 1}: {label}", xticks=[], yticks=[])
        drawing.colorbar(image, ax=axes, fraction=0.02)
    drawing.savefig(figure)
    for name in PANELS:
        means = (f"layer {i + 1}: {float(found[i][name].mean()):.3g}" for i in layers)
        print(f"mean {name} of {len(content)} bytes: {', '.join(means)}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

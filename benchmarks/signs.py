"""How often equal variants seem to differ, by signs and by shuffles: `python -m benchmarks.signs`.

Made-up studies of noise in which kinds do not vary alike, and one in which a kind is better.
"""

from __future__ import annotations

import argparse
import itertools
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import false_discovery_control

from miras_search.stats.effects import Design, one_hot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Axes = Mapping[str, Sequence[str]]

SHUFFLES = 999
NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "one in five learned": lambda rng, n: 5 * (rng.random(n) < 0.2) + rng.normal(size=n),
}


def crossed() -> Axes:
    """Every combination of 3, 2, 2 and 2 kinds."""
    rows = itertools.product("abc", "ab", "ab", "ab")
    return dict(zip(("w", "x", "y", "z"), map(list, zip(*rows, strict=True)), strict=True))


def drawn(n: int, rare: float, kinds: Sequence[int], rng: np.random.Generator) -> Axes:
    """Kinds at random; the first axis has "a" with a chance of its own, if it is not 0."""
    found = {f"axis {i}": [*map(str, rng.integers(count, size=n))] for i, count in enumerate(kinds)}
    if rare:
        found["axis 0"] = ["a" if here else "b" for here in rng.random(n) < rare]
    return found


def lone() -> Axes:
    """Twelve variants with one kind and two with the other."""
    halves = {"x": 1, "y": 2, "z": 4}
    own = {name: [str(i // every % 2) for i in range(14)] for name, every in halves.items()}
    return {"w": ["b"] * 12 + ["a"] * 2} | own


def shuffled(axes: Axes, scores: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """The p-values of axes and pairs by shuffling what others leave (Freedman and Lane 1983)."""
    columns = {name: one_hot(kinds) for name, kinds in axes.items()}
    asked = {n: ([c for o, c in columns.items() if o != n], columns[n]) for n in columns}
    for one, other in itertools.combinations(columns, 2):
        both = (columns[one][:, :, None] * columns[other][:, None, :]).reshape(len(scores), -1)
        asked[f"{one} x {other}"] = ([*columns.values()], both)
    found = {}
    for name, (beside, added) in asked.items():
        base = np.column_stack([np.ones(len(scores)), *beside])
        small, whole = (m @ np.linalg.pinv(m) for m in (base, np.column_stack([base, added])))
        if np.trace(whole - small) < 0.5 or len(scores) - np.trace(whole) < 4.5:
            continue
        left = scores - small @ scores
        draws = np.column_stack([left, *(rng.permutation(left) for _ in range(SHUFFLES))])
        draws -= small @ draws
        share = ((whole @ draws) ** 2).sum(axis=0) / (draws**2).sum(axis=0)
        found[name] = float(np.mean(share >= share[0] - 1e-12))
    return found


def main() -> None:
    """Print the shares of studies that show anything, and of those that show what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    rng = np.random.default_rng(0)
    some = drawn(24, 0.25, (2, 2, 2, 2), rng)
    large = {n: drawn(n, 0.0, (5, 4, 3, 3), rng) for n in (36, 60)}
    designs = [(f"24 crossed, {name}", crossed(), name, 1.0) for name in NOISES]
    designs += [("24 crossed, a third 3 times", crossed(), "normal", 3.0)]
    designs += [("14, two 3 times", lone(), "normal", 3.0)]
    designs += [(f"24 at random, a quarter {by} times", some, "normal", by) for by in (3.0, 0.3)]
    for n, axes in large.items():
        designs += [(f"{n} at random, {name}", axes, name, 1.0) for name in NOISES]
        designs += [(f"{n} at random, a fifth 3 times", axes, "normal", 3.0)]
    for title, axes, noise, spread in designs:
        first = next(iter(axes.values()))
        wide = np.where(np.array(first) == min(first, key=first.count), spread, 1.0)
        told = []
        for seed in range(studies):
            scores = NOISES[noise](rng, len(first)) * wide
            signs = [e.p for e in Design(scores, axes).effects(seed) if e.p is not None]
            both = (signs, [*shuffled(axes, scores, rng).values()])
            told.append([min(false_discovery_control(p)) <= 0.05 for p in both])
        signs, shuffles = np.mean(told, axis=0)
        print(f"{title}: signs {signs:.1%}, shuffles {shuffles:.1%}", flush=True)
    axes = crossed()
    for ahead in (1.0, 1.5, 2.0):
        told = []
        for seed in range(studies):
            scores = rng.normal(size=24) + ahead * np.array([kind == "a" for kind in axes["x"]])
            (signs,) = (e.p for e in Design(scores, axes).effects(seed) if e.name == "x")
            told.append([(p or 1.0) <= 0.005 for p in (signs, shuffled(axes, scores, rng)["x"])])
        signs, shuffles = np.mean(told, axis=0)
        print(f"{ahead} ahead, p at most 0.005: signs {signs:.1%}, shuffles {shuffles:.1%}")


if __name__ == "__main__":
    main()

"""Run comparisons, print each as it is found, and write them to bench.json and bench.svg.

Above 1 is better, and beside each median stand the least and the most of its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.executors import between_trials, plain, shares_of_training
from benchmarks.figure import draw
from benchmarks.layers import (
    DEEP,
    DELTA,
    LAYERS,
    PRODUCT_FLOPS,
    SMALL_WIDTH,
    endless_text,
    kinds,
    mixer,
    plan_of,
    product,
    reading,
    training,
)
from benchmarks.layers import settings as every_setting
from benchmarks.timing import Row, compare, interleaved, row
from miras_search.lower.compiled import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH, LENGTH = 4, 1024
TOKENS = 10_000_000
"""Of the long stream."""


def layer(rounds: int) -> Iterator[Row]:
    """Training steps of the deep memory against titans-pytorch at the same chunk, eager as it is,
    and of the exact delta rule against its matrix, whose gradients are of the chunk's start."""
    for chunk in (16, 32, 64):
        *ours, peer = (
            f"{n}, chunk {chunk}"
            for n in ("anchored mlp", "recomputed mlp", "compiled mlp", "titans-pytorch")
        )
        calls = {name: training(LAYERS[name](), BATCH, LENGTH) for name in (*ours, peer)}
        times = interleaved(calls, rounds)
        yield from (compare(name, peer, times) for name in ours)
    names = ("delta rule", "titans-pytorch, a matrix, chunk 64")
    times = interleaved({n: training(LAYERS[n](), BATCH, LENGTH) for n in names}, rounds)
    yield compare(*names, times)


def bound(rounds: int) -> Iterator[Row]:
    """The time that the matrix products of a training step would take at the rate of a large one,
    three forward passes of them, over the time of the step: 1 is the bound of the machine."""
    deep = ("anchored mlp", "compiled mlp")
    for axes, chunk, names in (
        *((DEEP, chunk, [f"{n}, chunk {chunk}" for n in deep]) for chunk in (16, 64)),
        (DELTA, 1, ["delta rule"]),
    ):
        products = 3 * plan_of(axes, chunk, LENGTH).flops_per_token * BATCH * LENGTH
        calls = {name: training(LAYERS[name](), BATCH, LENGTH) for name in names}
        times = interleaved(calls | {"product": product()}, rounds)
        for name in names:
            pairs = zip(times["product"], times[name], strict=True)
            shares = [products / PRODUCT_FLOPS * one / step for one, step in pairs]
            yield row(f"{name}: share of the bound", "matrix products", shares)


def naive(rounds: int) -> Iterator[Row]:
    """Training steps of one sequence against the loop that goes token by token."""
    for name, axes, chunk in (("anchored mlp", DEEP, 64), ("delta rule", DELTA, 1)):
        calls = {
            name: training(mixer(axes, chunk), 1, LENGTH),
            "token loop": training(mixer(axes, chunk, "reference"), 1, LENGTH),
        }
        yield compare(name, "token loop", interleaved(calls, min(rounds, 3)))


def variants(rounds: int) -> Iterator[Row]:
    """Training steps of 1,024 tokens at chunk 64 against the token loop, one row for each kind
    beside its companions, at the size of a small sweep."""
    for name, other, *layers in kinds(64):
        pair = zip((name, other), layers, strict=True)
        calls = {n: training(layer, 1, LENGTH, SMALL_WIDTH) for n, layer in pair}
        yield compare(name, other, interleaved(calls, min(rounds, 3)))


def choices(rounds: int) -> Iterator[Row]:
    """Training steps at chunk 1, as planned against the lowering that was not chosen."""
    for name, other, *layers in kinds(1):
        pair = zip((name, other), layers, strict=True)
        calls = {n: training(layer, 4, 128, SMALL_WIDTH) for n, layer in pair}
        yield compare(name, other, interleaved(calls, min(rounds, 3)))


def settings(rounds: int) -> Iterator[Row]:
    """Every setting of every kind at chunk 16 and 256 tokens against the token loop: only where it
    is named, since it takes half an hour."""
    for name, other, *layers in every_setting(16):
        pair = zip((name, other), layers, strict=True)
        calls = {n: training(layer, 1, 256, SMALL_WIDTH) for n, layer in pair}
        yield compare(name, other, interleaved(calls, min(rounds, 3)))


def memory(rounds: int) -> Iterator[Row]:
    """Memory that a training step takes beyond what the process has between steps, by fresh
    processes."""
    for chunk in (16, 64):
        *ours, peer = (
            f"{n}, chunk {chunk}"
            for n in ("anchored mlp", "recomputed mlp", "compiled mlp", "titans-pytorch")
        )
        taken = [{name: _peak(name) for name in (*ours, peer)} for _ in range(min(rounds, 3))]
        for name in ours:
            yield row(f"{name}: memory", peer, [once[peer] / once[name] for once in taken])


def attention(rounds: int) -> Iterator[Row]:
    """Training steps of the exact delta rule and of the deep memory against attention, the same
    layer around all."""
    deep = ("anchored mlp, chunk 64", "compiled mlp, chunk 64")
    for length, batch, names in (
        (1024, 4, ("delta rule",)),
        (4096, 4, ("delta rule",)),
        (8192, 1, ("delta rule", *deep)),
        (16384, 1, ("delta rule", *deep)),
    ):
        layers = (*names, "attention")
        calls = {name: training(LAYERS[name](), batch, length) for name in layers}
        times = interleaved(calls, rounds if length < 8192 else min(rounds, 2))
        for name in names:
            yield replace(compare(name, "attention", times), name=f"{name}, T = {length}")


def length(rounds: int) -> Iterator[Row]:
    """64 times the time of 1k tokens over that of 64k: 1 is linear, and 64 / 70 is allowed."""
    for name in ("delta rule", "anchored mlp, chunk 64"):
        layer = LAYERS[name]()
        calls = {"64k": training(layer, 1, 65536), "1k": training(layer, 1, 1024)}
        times = interleaved(calls, min(rounds, 2))
        ratios = [64 * b / a for a, b in zip(times["64k"], times["1k"], strict=True)]
        yield row(f"{name}: 64k tokens", "64 times 1k tokens", ratios)


def stream(rounds: int) -> Iterator[Row]:
    """8 times the time of reading 8k tokens in pieces of 1k over that of 64k: 1 is linear."""
    for name in ("delta rule", "anchored mlp, chunk 64"):
        layer = LAYERS[name]()
        calls = {n: reading(layer, n) for n in (65536, 8192)}  # pyright: ignore[reportArgumentType]
        times = interleaved({str(n): call for n, call in calls.items()}, min(rounds, 3))
        ratios = [8 * b / a for a, b in zip(times["65536"], times["8192"], strict=True)]
        yield row(f"{name}: reading 64k tokens", "8 times 8k tokens", ratios)


def endless(rounds: int) -> Iterator[Row]:
    """20 MB over what the process grows by while a small byte model reads ten million tokens: the
    most that it takes, beyond the most during the first tenth of them."""
    for name, axes, chunk in (("anchored mlp, chunk 64", DEEP, 64), ("delta rule", DELTA, 1)):
        began, before, first, most = time.perf_counter(), 0, 0, 0
        for read in endless_text(axes, chunk, TOKENS):
            before = before or _resident()
            most = max(most, _resident())
            if read < TOKENS // 10:
                first = most
        seconds, grown = time.perf_counter() - began, most - first
        print(
            f"{name}: {TOKENS / seconds:,.0f} tokens a second, {grown / 1e6:.1f} MB grown, "
            f"{(most - before) / 1e6:.1f} MB since its first piece"
        )
        ratio = 20e6 / max(grown, 4096)
        yield row(f"{name}: growth over 10M tokens", "20 MB", [ratio], seconds)


def executors(rounds: int) -> Iterator[Row]:
    """What is allowed of time for a trial beyond its training, over what it takes: above 1, less.
    The training is timed in a plain loop before and after the study."""
    for executor, wandb, allowed in (
        ("local", "disabled", 0.03),
        ("ray", "disabled", 1.0),
        ("local", "offline", 0.03),
    ):
        before, taken, after = plain(), between_trials(executor, wandb), plain()
        training = statistics.median(before + after)
        spent = [max(one - training, 1e-3) for one in taken]
        name = f"{executor}, wandb {wandb}: a trial beyond training"
        ratios = [allowed / one for one in spent]
        yield row(name, f"{allowed:g} s", ratios, statistics.median(spent))


def busy(rounds: int) -> Iterator[Row]:
    """How much of the time of two workers is training, over 95 %: trials of 20 seconds."""
    for executor in ("local", "ray"):
        whole, within = shares_of_training(executor)
        yield row(f"{executor}: training in a whole sweep", "95 %", [whole / 0.95])
        yield row(f"{executor}: training from the first trial on", "95 %", [within / 0.95])


_LAYERS = (layer, bound, memory, attention, naive, length, stream, endless, variants, choices)
GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    f.__name__: f for f in (*_LAYERS, executors, busy, settings)
}
USUAL = [name for name in GROUPS if name != "settings"]
"""What runs where nothing is named."""


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _peak(name: str) -> float:
    """Bytes that a training step of a layer takes after one that is not counted, which compiles:
    on a GPU of its memory, else what it adds to the size of a fresh process."""
    if torch.get_default_device().type == "cuda":
        step = training(LAYERS[name](), BATCH, LENGTH)
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    code = (
        "import ctypes, gc, re\n"
        "from pathlib import Path\n"
        "from benchmarks.layers import LAYERS, training\n"
        f"step = training(LAYERS[{name!r}](), {BATCH}, {LENGTH})\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "step()\n"
        "gc.collect(); ctypes.CDLL(None).malloc_trim(0)\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"  # the peak begins anew
        "before = peak()\n"
        "step()\n"
        "print(1024 * (peak() - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _problems(options: argparse.Namespace) -> Iterator[str]:
    """What would fail only after minutes."""
    if options.rounds < 1:
        yield f"--rounds {options.rounds}: expected at least 1"
    if options.out.suffix != ".json" or not options.out.absolute().parent.is_dir():
        yield f"--out {options.out}: expected a file *.json in a folder that there is"
    if {*(options.groups or USUAL)} & {"layer", "memory"} and not find_spec("titans_pytorch"):
        yield "titans-pytorch is not installed: expected pip install 'miras-search[bench]'"
    try:
        torch.ones(1, device=options.device).item()
    except (RuntimeError, AssertionError) as error:
        yield f"--device {options.device}: {error}"


def main() -> None:
    """See the module."""
    told = (f"{name}: {' '.join((made.__doc__ or '').split())}" for name, made in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n\n".join(["groups:", *told]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help="all but settings if none is named"
    )
    few = "turns of each call (5); at most 2 or 3 where one takes long"
    parser.add_argument("--rounds", type=int, default=5, help=few)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="bench.json")
    parser.add_argument("--device", default="cpu", help="of the layers (cpu)")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown groups {sorted(unknown)}: expected some of {list(GROUPS)}")
    for problem in _problems(options):
        parser.error(problem)
    if options.device != "cpu":  # a default device makes every call of torch slower
        torch.set_default_device(options.device)
    cpu = f"{torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if "cuda" in options.device else cpu
    print(f"torch {torch.__version__}, {where}; ratios above 1: better")
    rows = []
    for name in options.groups or USUAL:
        for found in GROUPS[name](options.rounds):
            print(found, flush=True)
            rows.append(found)
            options.out.write_text(json.dumps([row.plain() for row in rows], indent=2) + "\n")
        draw(rows, options.out.with_suffix(".svg"))
        if why := failures():
            sys.exit(f"nothing was compiled, so rows of compiled layers are of others: {why[0]}")


if __name__ == "__main__":
    main()

"""A function through torch.compile, with a way back."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch._functorch import config as functorch
from torch.compiler import config as compiler

P = ParamSpec("P")
R = TypeVar("R")

KINDS = 64
"""Variants and shapes of one process that are compiled; later ones run as they are."""

MODELS = 8
"""That are compiled before what was compiled is forgotten: each may be several of `KINDS`."""

_FAILURES: list[str] = []
_MODELS: set[str] = set()


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled for each kind of its arguments when it first meets it.

    Its backward pass is compiled with it. What cannot be compiled here (no C++ compiler, say) runs
    as it is, and so does from then on whatever else the process would compile; that is said once.
    """

    @cache
    def fast() -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _FAILURES:
            return function(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about itself
                with (
                    torch._dynamo.config.patch(recompile_limit=KINDS),
                    functorch.patch(force_non_lazy_backward_lowering=True),
                    _loops_apart(),
                ):
                    return fast()(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            found = function(*args, **kwargs)  # raises again if compiling was not at fault
            told = " ".join(str(error).split("\n")[:2]).strip()
            _FAILURES.append(told)
            logging.getLogger(__name__).warning("not compiled, so slower: %s", told)
            return found

    return call


@contextmanager
def _loops_apart() -> Iterator[None]:
    """Fuse no outer loops for a CPU: torch 2.13 does it even where one of them takes several rows
    at once, and keeps only the last of these, so that the gradient of a softmax is wrong (pytorch
    #185702). What is compiled so has a name of its own in torch's cache on disk."""
    from torch._inductor.codegen.cpp import CppScheduling  # takes seconds

    name = "_get_outer_loop_fusion_depth"
    fused = getattr(CppScheduling, name)
    setattr(CppScheduling, name, lambda *_: 0)
    try:
        with compiler.patch(cache_key_tag="loops-apart"):  # pyright: ignore[reportAttributeAccessIssue]
            yield
    finally:
        setattr(CppScheduling, name, fused)


def begin(model: str) -> None:
    """Make room for what a model, by its digest, will compile: beyond `KINDS` nothing would be."""
    if model not in _MODELS and len(_MODELS) >= MODELS:
        torch._dynamo.reset()
        _MODELS.clear()
    _MODELS.add(model)


def failures() -> list[str]:
    """Why this process compiles nothing any more, if that is so."""
    return _FAILURES


def seconds() -> float:
    """Time that this process has spent compiling."""
    loaded = sys.modules.get("torch._dynamo.utils")  # loading it takes seconds
    return loaded.calculate_time_spent().get("total_wall_time", 0.0) if loaded else 0.0

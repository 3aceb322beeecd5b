"""Trained models for the Language Model Evaluation Harness: `python -m miras_search.lm_eval`.

The command takes what `lm_eval` takes, and knows the model "miras". Needs the extra "eval":
pip install 'miras-search[eval]'.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]

from miras_search import checkpoint
from miras_search.data.tokens import BYTES, codec
from miras_search.errors import UserError
from miras_search.folder import CONFIG
from miras_search.yaml_file import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from torch import Tensor

    from miras_search.nn.state import ModelState

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_KNOWN = {"until", "do_sample", "temperature", "max_gen_toks"}
"""What can be said of how to generate."""


@register_model("miras")
class MirasLM(TemplateLM):
    """A model of a task whose tokens are text, `corpus` or `bytes`.

    Sequences of one length share a batch: a memory reads all that it is given, so nothing is
    padded. They are read piece by piece with the state carried on, so a context may have any length
    and none is cut off. Every text begins after the separator of the corpus, as documents do in
    training; for `bytes`, after a line feed.

    Args:
        pretrained: the folder of a checkpoint, such as runs/<study>/best.
        tokenizer: in place of that of the task, if its file has moved.
        batch_size: sequences at a time.
        device: where torch computes, null being "cuda"; the CPU where there is no CUDA.
        piece: tokens read at a time.
        seed: of sampling, where a task asks for it.
        max_batch_size: part of what the harness passes on; there is no automatic batch size.

    Raises:
        UserError: there is no such checkpoint, its tokens are no text, or the tokenizer is missing
            or another.
    """

    def __init__(
        self,
        pretrained: str,
        tokenizer: str | None = None,
        batch_size: int | str = 16,
        device: str | None = None,
        piece: int = 2048,
        seed: int = 0,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        folder = Path(pretrained)
        device = device or "cuda"
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "cpu"  # the harness asks for "cuda:0" on any machine
        self._device = device
        self.model = checkpoint.load(folder).to(self.device)
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise UserError(f"batch_size={batch_size}: expected a whole number from 1")
        self.batch, self.piece = int(batch_size), piece
        self.random = torch.Generator(self.device).manual_seed(seed)
        task = (Document.load(folder / CONFIG).data.get("about") or {}).get("task") or {}
        match task.get("kind"):
            case "corpus":
                self.codec = codec(tokenizer or task["tokenizer"])
                self.separator, needed = self.codec.size, self.codec.size + 1
            case "bytes":
                self.codec = BYTES
                self.separator, needed = ord("\n"), self.codec.size
            case other:
                told = f"a checkpoint of the task '{other}', whose tokens are no text"
                raise UserError(f"{folder}: {told}: expected one of corpus or bytes")
        held = self.model.embedding.num_embeddings
        if needed != held:
            told = f"the tokenizer makes {needed} tokens and the model has {held}"
            raise UserError(f"{folder}: {told}: expected the tokenizer that it was trained with")

    @property
    def eot_token_id(self) -> int:
        """The separator, which is also what a text begins after."""
        return self.separator

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text, after a separator unless that is not wanted."""
        first = [] if add_special_tokens is False else [self.separator]
        return first + self.codec.encode([string])[0]

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each (_, context, continuation), and whether every token of the
        continuation is the likeliest."""
        found = self._scores([(context, told) for _, context, told in requests])
        for (request, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request, answer)
        return found

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, each read in one go."""
        texts = [request.args[0] for request in requests]
        encode = partial(self.tok_encode, add_special_tokens=False)
        scores = [
            score for score, _ in self._scores([([self.separator], encode(t)) for t in texts])
        ]
        for text, score in zip(texts, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), score)
        return scores

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        def lengths(pair: tuple[list[int], list[int]]) -> int:
            return len(pair[0]) + len(pair[1])

        def score(mine: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
            tokens = torch.tensor([[*context, *told] for context, told in mine])
            chances, likeliest = self._next(tokens)
            # The target of a position is the token after it.
            firsts = [len(context) - 1 for context, _ in mine]
            return [
                (float(chances[i, first:].sum()), bool(likeliest[i, first:].all()))
                for i, first in enumerate(firsts)
            ]

        return self._in_batches(pairs, lengths, score)

    @torch.no_grad()
    def _next(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """For each token of `[B, T]` but the first, its log-probability in nats after those before
        it, float64, and whether it is the likeliest: `[B, T - 1]` each, on the CPU."""
        given, targets = tokens[:, :-1].to(self.device), tokens[:, 1:].to(self.device)
        chances = [torch.empty(len(tokens), 0, dtype=torch.float64)]
        likeliest = [torch.empty(len(tokens), 0, dtype=torch.bool)]
        pieces = given.split(self.piece, dim=1) if given.shape[1] else ()
        wanted = targets.split(self.piece, dim=1) if given.shape[1] else ()
        for (logits, _), target in zip(self.model.stream(pieces), wanted, strict=True):
            told = target[..., None]
            chance = logits.float().log_softmax(-1).gather(-1, told)[..., 0]
            chances.append(chance.double().cpu())
            likeliest.append((logits.argmax(-1) == target).cpu())
        return torch.cat(chances, 1), torch.cat(likeliest, 1)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its stop sequences, which is left out, to a
        separator, or to its number of tokens."""

        def asked(request: Any) -> tuple[list[int], dict[str, Any]]:
            context, how = request.args
            return self.tok_encode(context), dict(normalize_gen_kwargs(how))

        def alike(one: tuple[list[int], dict[str, Any]]) -> Hashable:
            return len(one[0]), repr(sorted(one[1].items()))

        def continued(mine: list[tuple[list[int], dict[str, Any]]]) -> list[str]:
            return self._continued(torch.tensor([prompt for prompt, _ in mine]), **mine[0][1])

        found = self._in_batches([asked(request) for request in requests], alike, continued)
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _continued(
        self,
        prompt: Tensor,
        *,
        until: list[str],
        max_gen_toks: int,
        do_sample: bool,
        temperature: float = 0.0,
        **other: Any,
    ) -> list[str]:
        """A text for each row of a prompt `[B, T]`."""
        if do_sample and other:
            told = f"cannot sample with {', '.join(other)}"
            raise UserError(f"{told}: expected no more than {', '.join(sorted(_KNOWN))}")
        stops = [stop for stop in until if stop]
        rows: list[list[int]] = [[] for _ in prompt]
        texts, ended = [""] * len(rows), [False] * len(rows)
        for _, step in zip(range(max_gen_toks), self._steps(prompt, temperature), strict=False):
            for i, token in enumerate(step):
                if ended[i]:
                    continue
                if token == self.separator and token == self.codec.size:
                    ended[i] = True
                    continue
                rows[i].append(token)
                text = self.codec.decode(rows[i])
                ends = [text.find(stop) for stop in stops if stop in text]
                texts[i], ended[i] = text[: min(ends, default=None)], bool(ends)
            if all(ended):
                break
        return texts

    def _steps(self, prompt: Tensor, temperature: float) -> Iterator[list[int]]:
        """One token after another for each row of a prompt `[B, T]`."""
        *before, piece = prompt.to(self.device).split(self.piece, dim=1)
        state: ModelState | None = None
        for _, reached in self.model.stream(before):
            state = reached
        while True:
            piece, state = self.model.generate(
                piece, 1, state, temperature=temperature, generator=self.random
            )
            yield piece[:, 0].tolist()

    def _in_batches(
        self,
        items: Sequence[Item],
        alike: Callable[[Item], Hashable],
        answer: Callable[[list[Item]], Sequence[Answer]],
    ) -> list[Answer]:
        """The answer to each item, in order: those that are alike are asked together."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[alike(item)].append(index)
        found: dict[int, Answer] = {}
        for indices in groups.values():
            for begin in range(0, len(indices), self.batch):
                mine = indices[begin : begin + self.batch]
                found |= zip(mine, answer([items[i] for i in mine]), strict=True)
        return [found[index] for index in range(len(items))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    try:
        cli_evaluate()
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)

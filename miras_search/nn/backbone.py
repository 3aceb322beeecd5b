"""A language model of memory layers: embedding, blocks, head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from miras_search.nn.cell import Cell
from miras_search.nn.decoder import head
from miras_search.nn.state import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from miras_search.layer import Lowering
    from miras_search.macro.base import Layer
    from miras_search.nn.state import LayerState, ModelState
    from miras_search.size import Size
    from miras_search.tasks.base import Readout
    from miras_search.variant import Variant


class SwiGLU(nn.Module):
    """A gated feed-forward layer: W_o(silu(W_g x) * W_i x) (Shazeer 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_and_input = nn.Linear(width, 2 * hidden, bias=False)
        self.output = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., D]` to `[..., D]`."""
        gate, value = self.gate_and_input(x).chunk(2, dim=-1)
        return self.output(functional.silu(gate) * value)


class Block(nn.Module):
    """A mixer and a feed-forward layer, each behind an RMSNorm and around a residual."""

    def __init__(
        self, layer: Layer, variant: Variant, size: Size, lowering: Lowering = "auto"
    ) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(size.width)
        self.mixer = layer.mixer(variant, size.width, lowering)
        hidden = round(size.mlp * size.width)
        self.mlp_norm = nn.RMSNorm(size.width) if hidden else None
        self.mlp = SwiGLU(size.width, hidden) if hidden else None

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """x `[B, T, D]` to `[B, T, D]`, and the state after the last token."""
        mixed, after = self.mixer(self.mixer_norm(x), state)
        x = x + mixed
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x, after


class Backbone(nn.Module):
    """Tokens in, logits of the next token out; the memories carry what was read.

    With the readout "last" the logits of all positions come from the last hidden state, so that a
    sequence has to be read at once.
    """

    def __init__(
        self,
        variant: Variant,
        size: Size,
        vocabulary: int,
        lowering: Lowering = "auto",
        readout: Readout = "each",
    ) -> None:
        super().__init__()
        self.variant = variant
        self.readout = readout
        self.embedding = nn.Embedding(vocabulary, size.width)
        if size.layers < variant.macro.depth:
            raise ValueError(f"{variant.macro} needs {variant.macro.depth} layers or more")
        layers = variant.macro.layers(size.layers)
        self.blocks = nn.ModuleList(Block(layer, variant, size, lowering) for layer in layers)
        self.norm = nn.RMSNorm(size.width)
        self.head = head(size.width, vocabulary, readout)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens `[B, T]` to logits `[B, T, vocabulary]`, and the state after the last token.

        Passing the state on continues the sequence: any split gives the same logits.

        Raises:
            ValueError: the tokens are of another shape, the state is of another model or batch, or
                the readout is "last".
        """
        if tokens.is_floating_point():
            raise ValueError(f"tokens are {tokens.dtype}: expected whole numbers")
        if tokens.dim() != 2 or not tokens.numel():
            told = f"tokens of shape {[*tokens.shape]}"
            raise ValueError(f"{told}: expected [B, T] of at least one token")
        if state is not None:
            self._check_continues()
            self._check(state)
        x, after = self.embedding(tokens), []
        for i, block in enumerate(self.blocks):
            x, layer_state = block(x, None if state is None else state[i])
            after.append(layer_state)
        return self.head(self.norm(x)), tuple(after)

    @torch.no_grad()
    def stream(
        self, pieces: Iterable[Tensor], state: ModelState | None = None
    ) -> Iterator[tuple[Tensor, ModelState]]:
        """Read a sequence piece by piece, each `[B, n]` tokens: its logits `[B, n, vocabulary]` and
        the state after it.

        Nothing of an earlier piece is held but the state, whose size is bounded unless the memory
        grows; it is largest within a chunk, whose anchor it holds besides.

        Raises:
            ValueError: the readout is "last".
        """
        self._check_continues()
        for piece in pieces:
            logits, after = self(piece, state)
            state = after
            yield logits, after

    @torch.no_grad()
    def surprise(
        self, tokens: Tensor, state: ModelState | None = None
    ) -> tuple[list[dict[str, Tensor]], ModelState]:
        """How surprising each token is to each layer's memory, and the state after the last token.

        tokens `[B, T]`; for each layer "loss", "gradient" and "write" by name, `[B, T, H]` each
        (see `layer.surprise`), nothing where no memory is updated. Token by token, so slow.
        """
        watched = [[x for x in block.modules() if isinstance(x, Cell)] for block in self.blocks]
        calls: dict[nn.Module, list[dict[str, Tensor]]] = {c: [] for cs in watched for c in cs}

        def watch(cell: Cell, given: tuple[Any, ...]) -> None:
            calls[cell].append(cell.surprise(*given))

        hooks = [cell.register_forward_pre_hook(watch) for cell in calls]
        try:
            _, after = self(tokens, state)
        finally:
            for hook in hooks:
                hook.remove()

        def whole(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            """Of the tokens alone: those that the memory reads before the first stand in front."""
            joined = {name: torch.cat([x[name] for x in parts], dim=1) for name in parts[0]}
            return {name: x[:, x.shape[1] - tokens.shape[1] :] for name, x in joined.items()}

        return [whole(calls[cells[0]]) if cells else {} for cells in watched], after

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        tokens: int,
        state: ModelState | None = None,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Continue a prompt `[B, T]` by `tokens` tokens: `[B, tokens]`, and the state after all but
        the last of them.

        Each is drawn from softmax(logits / temperature), or is the likeliest at a temperature of 0.

        Raises:
            ValueError: there is no token to begin with, a number is out of range, or the readout is
                "last".
        """
        self._check_continues()
        if tokens < 1 or not 0 <= temperature < math.inf:
            told = f"got tokens {tokens} and temperature {temperature}"
            raise ValueError(
                f"expected tokens of at least 1 and a temperature of at least 0, {told}"
            )
        found, piece = [], prompt
        for _ in range(tokens):
            logits, state = self(piece, state)
            scores = logits[:, -1]
            if temperature:
                # The largest is 0, so that none is infinite at any temperature.
                chances = ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)
                piece = torch.multinomial(chances, 1, generator=generator)
            else:
                piece = scores.argmax(-1, keepdim=True)
            found.append(piece)
        assert state is not None
        return torch.cat(found, dim=1), state

    def _check(self, state: ModelState) -> None:
        """Refuse what no model of so many layers returns; shapes are looked at by each."""
        require(state)
        if len(state) != len(self.blocks):
            told = f"a state of {len(state)} layers: expected one of {len(self.blocks)}"
            raise ValueError(f"{told}, as this model returns it")

    def _check_continues(self) -> None:
        if self.readout == "last":
            raise ValueError(
                "a model with the readout 'last' answers from the last token of a whole sequence: "
                "expected one call, without a state"
            )

"""The Lightning side of a variant: how it is trained, and the data it is trained on."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from torchmetrics import MeanMetric

from miras_search.data.examples import Batches, Shares
from miras_search.lower.surprise import norm
from miras_search.nn.backbone import Backbone
from miras_search.ranks import ALONE, Rank
from miras_search.record import Point
from miras_search.tasks.base import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from miras_search.recipe import Recipe
    from miras_search.tasks.base import Task
    from miras_search.variant import Variant

Batch = tuple["Tensor", "Tensor"]
"""tokens and targets, int64 `[B, T]`; a target of `IGNORE` is not scored."""

SURPRISED = (8, 32)
"""Examples and tokens that surprise is taken of at a validation: token by token, so few."""


EVALUATED = 8192
"""Tokens at once of held-out examples, or as many as in training if these are more: no backward
pass needs them, and small batches take the time of their launches."""


class Diverged(Exception):
    """The outer loss is no longer a number."""


class MemoryModule(pl.LightningModule):
    """A backbone of one variant, its loss, its metrics and its optimiser."""

    def __init__(
        self,
        variant: Variant,
        recipe: Recipe,
        lr: float,
        on_point: Callable[[Point], None] = lambda point: None,
    ) -> None:
        super().__init__()
        task, how = recipe.task, recipe.lowering
        self.model = Backbone(variant, recipe.size, task.vocabulary, how, task.readout)
        self.variant, self.recipe = variant.canonical, recipe
        self.lr, self.on_point = lr, on_point
        self.curve: list[Point] = []
        self.surprise: dict[str, float] = {}
        """Of the latest validation, as `Point` has it."""
        self.spreads: dict[str, Tensor] = {}
        """Of the latest validation, all values: of each surprise, and of the norm of each memory
        after these tokens, one for each example and head."""
        self.train_loss = MeanMetric()
        self.bits, self.accuracy, self.exact = MeanMetric(), MeanMetric(), MeanMetric()
        self.began = time.monotonic()
        self.tokens = 0
        """Tokens trained on."""

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens `[B, T]` to logits `[B, T, vocabulary]`."""
        return self.model(tokens)[0]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        tokens, targets = batch
        outer, read = loss(self(tokens), targets), tokens.numel()
        together = self.trainer.strategy
        if self.trainer.world_size > 1:
            # Gradients of all processes count alike, and one may have more to score than another.
            mine = torch.stack([(targets != IGNORE).sum(), targets.new_tensor(read)])
            scored, read = together.reduce(mine.clone(), reduce_op="sum").tolist()
            outer = outer * mine[0] * self.trainer.world_size / scored
        mean = float(together.reduce(outer.detach().clone()))
        if not math.isfinite(mean):
            raise Diverged(f"the loss was {mean} at step {self.global_step}")
        self.train_loss.update(outer.detach())
        self.tokens += int(read)
        return outer

    def validation_step(self, batch: Batch, index: int) -> None:
        tokens, targets = batch
        logits, scored = self(tokens), targets != IGNORE
        count = scored.sum()
        bits = loss(logits, targets) / math.log(2)
        # A mean leaves out what is not a number: right of nothing scored, and of nothing else.
        self.bits.update(torch.where(bits.isnan() & (count > 0), math.inf, bits), count)
        right = logits.argmax(-1) == targets
        self.accuracy.update(right[scored].float().mean(), count)
        # One value for each example, so that every example weighs the same in any batch.
        self.exact.update((right | ~scored).all(-1).float())

    def metrics(self) -> dict[str, float]:
        """The means over the set just evaluated."""
        return {
            "bits_per_token": float(self.bits.compute()),
            "accuracy": float(self.accuracy.compute()),
            "exact": float(self.exact.compute()),
        }

    def on_validation_epoch_start(self) -> None:
        for metric in (self.bits, self.accuracy, self.exact):
            metric.reset()

    def on_validation_batch_start(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or self.trainer.state.fn != "fit":
            return
        examples, most = SURPRISED
        found, state = self.model.surprise(batch[0][:examples, :most])
        every = {
            f"layer{i}/{name}": x
            for i, layer in enumerate(found, start=1)
            for name, x in layer.items()
        }
        self.surprise = {name: float(x.mean()) for name, x in every.items()}
        self.spreads = {f"surprise/{name}": x.flatten() for name, x in every.items()}
        for i, layer in enumerate(state, start=1):
            for name, held in layer.items():
                if name.endswith("memory") and (size := norm(self.variant, held)) is not None:
                    self.spreads[f"norm/layer{i}"] = size.flatten()

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != "fit":
            return
        point = Point(
            step=self.global_step,
            seconds=time.monotonic() - self.began,
            train_loss=float(self.train_loss.compute()),
            score=self.metrics()[self.recipe.task.metric],
            surprise=self.surprise,
        )
        self.train_loss.reset()
        self.curve.append(point)
        self.on_point(point)

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.dim() > 1]
        others = [p for p in self.parameters() if p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.lr,
            betas=(0.9, 0.95),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share_of_peak)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _share_of_peak(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero at the last step."""
        warmup = round(self.recipe.warmup * self.recipe.steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (1 + math.cos(math.pi * (step - warmup) / max(1, self.recipe.steps - warmup))) / 2


class TaskData(pl.LightningDataModule):
    """The sets of a task as loaders."""

    def __init__(self, task: Task, batch: int, seed: int, rank: Rank = ALONE) -> None:
        super().__init__()
        self.task, self.batch, self.seed, self.rank = task, batch, seed, rank

    def loader(self, split: str) -> DataLoader:
        """The examples of a split: shuffled by the seed for "train", in order for others.

        A batch has one length, also where "train" mixes several. Of held-out examples a batch has
        so many that there are `EVALUATED` tokens in it or as many as in training, whatever the
        length, but one for each process at least. Each process has its share of every batch.
        """
        examples = self.task.dataset(split, self.seed)
        if split != "train":
            tokens = max(self.batch * self.task.length, EVALUATED)
            size = max(self.rank.count, tokens // len(examples[0][0]))
            order = SequentialSampler(examples)  # pyright: ignore[reportArgumentType]
            batches = BatchSampler(order, size, drop_last=False)
            shares = [batch[self.rank.index :: self.rank.count] for batch in batches]
            return DataLoader(examples, batch_sampler=[*filter(None, shares)])
        random = torch.Generator().manual_seed(self.seed)
        batches = Batches(examples, self.batch, random, least=self.rank.count)
        mine = Shares(batches, self.rank.index, self.rank.count)
        return DataLoader(examples, batch_sampler=mine, generator=random)

    def train_dataloader(self) -> DataLoader:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader:
        return self.loader("validation")

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over scored positions."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)

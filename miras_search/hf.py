"""Trained models as models of Hugging Face transformers, of which no code is fetched or trusted.

After `import miras_search.hf`, `AutoModelForCausalLM.from_pretrained` loads what
`miras-search export` wrote, and `generate` carries a cache that does not grow with the length
unless the memory does: it is bounded, and largest within a chunk, whose anchor it holds besides.
Needs the extra "hf": pip install 'miras-search[hf]'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.generic import ModelOutput, can_return_tuple

from miras_search.lower.call import State
from miras_search.nn.backbone import Backbone
from miras_search.nn.features import PolynomialFeatures
from miras_search.size import Size
from miras_search.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor

    from miras_search.nn.state import ModelState

IGNORED = -100
"""The label of a token that the loss leaves out."""


class MirasConfig(PretrainedConfig):
    """What a model is: a variant and a size as plain data, as `Variant.to_dict` gives them."""

    model_type = "miras"

    def __init__(
        self,
        variant: dict[str, Any] | None = None,
        size: dict[str, Any] | None = None,
        vocab_size: int = 256,
        readout: str = "each",
        **kwargs: Any,
    ) -> None:
        self.variant = variant or {}
        self.size = size or {}
        self.vocab_size = vocab_size
        self.readout = readout
        self.hidden_size = self.size.get("width")
        self.num_hidden_layers = self.size.get("layers")
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class MemoryCache:
    """The state of a model after the first `length` tokens of a sequence."""

    # What `generate` asks of a cache that it is given.
    is_compileable = False
    is_linear = (True,)

    def __init__(self, state: ModelState, length: int) -> None:
        self.state = state
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read."""
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for layer in self.state for part in layer.values())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows `[B]` of the batch, as beam search asks."""

        def rows(part: State) -> State:
            found = {name: x.index_select(0, beam_idx) for name, x in part.tensors.items()}
            return State(found, part.position)

        self.state = tuple({name: rows(p) for name, p in layer.items()} for layer in self.state)


@dataclass
class MirasOutput(ModelOutput):
    """Logits `[B, T, vocabulary]`, the mean cross-entropy in nats if labels were given, and the
    state, in `cache`, if it is asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: MemoryCache | None = None


class MirasForCausalLM(PreTrainedModel, GenerationMixin):
    """A `Backbone` behind the interface of transformers."""

    config_class = MirasConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is the mean over this batch, whatever a Trainer adds up
    _is_stateful = True  # what has been read cannot be taken back, as assisted decoding would

    def __init__(self, config: MirasConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(
            Variant.from_dict(config.variant),
            Size(**config.size),
            config.vocab_size,
            readout=config.readout,  # pyright: ignore[reportArgumentType]
        )
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Layers initialise themselves, but `from_pretrained` empties what no checkpoint holds."""
        if isinstance(module, PolynomialFeatures):
            module.tabulate()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.backbone.embedding

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: MemoryCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        past_key_values: MemoryCache | None = None,
        **kwargs: Any,
    ) -> MirasOutput:
        """input_ids `[B, T]`, which go on where a cache ends; logits of the last `logits_to_keep`
        positions, 0 being all. Labels `[B, T]` are shifted here, and -100 is left out. A cache may
        be given as `past_key_values` too, as other models call it.

        Raises:
            ValueError: the mask leaves tokens out.
            TypeError: the cache is none of this model's.
        """
        cache = past_key_values if cache is None else cache
        if cache is not None and not isinstance(cache, MemoryCache):
            raise TypeError(
                f"expected the cache that this model returned, got {type(cache).__name__}: "
                "a memory carries a state, and no keys and values"
            )
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                "attention_mask leaves tokens out, but a memory reads all that it is given: "
                "expected sequences of one length, without padding"
            )
        logits, state = self.backbone(input_ids, cache.state if cache else None)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(),
                labels[:, 1:].flatten(),
                ignore_index=IGNORED,
            )
        before = cache.length if cache else 0
        return MirasOutput(
            loss=loss,
            logits=logits[:, -logits_to_keep:],
            cache=MemoryCache(state, before + input_ids.shape[1]) if use_cache else None,
        )

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, cache: MemoryCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The tokens that the cache has not read."""
        seen = cache.length if cache else 0
        return {
            "input_ids": input_ids[:, seen:],
            "cache": cache,
            "use_cache": kwargs.get("use_cache", True),
            "attention_mask": kwargs.get("attention_mask"),
            "logits_to_keep": 1,
        }

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *rest: Any, **more: Any
    ) -> dict[str, Any]:
        told = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *rest, **more)
        return told if outputs.cache is None else told | {"cache": outputs.cache}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """A cache of keys and values is not what a memory carries."""
        return False


AutoConfig.register(MirasConfig.model_type, MirasConfig)
AutoModelForCausalLM.register(MirasConfig, MirasForCausalLM)

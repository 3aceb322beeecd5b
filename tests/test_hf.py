"""Models behind the interface of transformers, against the models themselves."""

import copy
import json
import warnings

import pytest
import torch
from torch.nn import functional

from miras_search.nn.backbone import Backbone
from miras_search.size import Size
from miras_search.space import Space

pytest.importorskip("transformers", reason="needs the extra hf")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    from miras_search import hf

pytestmark = pytest.mark.filterwarnings("default")  # of what is not ours

VOCABULARY = 64
NAMES = ("yaad", "atlas", "titans_lmm", "omeganet", "mamba2", "softmax_attention")
"""Deep and flat memories, polynomial features, windows, and a memory that grows."""


def test_a_trainer_divides_the_loss_by_its_steps():
    """Which it leaves to a model that takes any keywords, unless that says otherwise."""
    assert hf.MirasForCausalLM.accepts_loss_kwargs is False


def pair(name):
    """A model of random weights and the same for transformers."""
    torch.manual_seed(0)
    (variant,) = Space.load(name).enumerate()
    size = Size(width=32, layers=2)
    model = Backbone(variant, size, VOCABULARY).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)  # so that no two tokens are as likely
    config = hf.MirasConfig(variant.to_dict(), size.model_dump(), VOCABULARY)
    theirs = hf.MirasForCausalLM(config).eval()
    theirs.backbone.load_state_dict(model.state_dict())
    return model, theirs


@pytest.fixture(scope="module", params=NAMES)
def models(request):
    return pair(request.param)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCABULARY, (2, 37), generator=torch.Generator().manual_seed(1))


def test_logits_and_loss(models, tokens):
    model, theirs = models
    logits, _ = model(tokens)
    labels = tokens.clone()
    labels[0, 5:9] = -100
    told = theirs(tokens, labels=labels)
    assert torch.equal(told.logits, logits)
    loss, again = theirs(tokens, labels=labels, return_dict=False)
    assert torch.equal(loss, told.loss)
    assert torch.equal(again, logits)
    kept = labels[:, 1:] != -100
    chances = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert torch.allclose(told.loss, -chances[kept].mean())
    assert told.cache is None
    assert torch.equal(theirs(tokens, logits_to_keep=3).logits, logits[:, -3:])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_on_where_it_ended(models, tokens, name):
    _, theirs = models
    double = copy.deepcopy(theirs).double()
    first = double(tokens[:, :20], use_cache=True)
    rest = double(tokens[:, 20:], **{name: first.cache}, use_cache=True)
    whole = double(tokens).logits
    assert torch.allclose(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-9)
    assert rest.cache.get_seq_length() == 37


def test_greedy_is_greedy(models, tokens):
    model, theirs = models
    expected, _ = model.generate(tokens, 12, temperature=0)
    for use_cache in (True, False):
        made = theirs.generate(tokens, max_new_tokens=12, do_sample=False, use_cache=use_cache)
        assert torch.equal(made, torch.cat([tokens, expected], 1))


def test_beams_are_followed_by_the_cache(models, tokens):
    _, theirs = models
    beams = {"max_new_tokens": 10, "num_beams": 4, "do_sample": False}
    with_cache = theirs.generate(tokens, **beams)
    without = theirs.generate(tokens, **beams, use_cache=False)
    assert torch.equal(with_cache, without)
    greedy = theirs.generate(tokens, max_new_tokens=10, do_sample=False)

    def chance(made):
        logits = theirs(made).logits[:, 36:-1].log_softmax(-1)
        return logits.gather(-1, made[:, 37:, None]).sum((1, 2))

    assert (chance(with_cache) >= chance(greedy) - 1e-4).all()


def test_keys_and_values_are_no_state(models, tokens):
    with pytest.raises(TypeError, match="the cache that this model returned, got DynamicCache"):
        models[1](tokens, past_key_values=DynamicCache())


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_conversation_goes_on_with_the_cache(models, tokens, name):
    _, theirs = models
    whole = theirs.generate(tokens, max_new_tokens=8, do_sample=False)
    read = theirs(tokens[:, :30], use_cache=True)
    asked = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(theirs.generate(tokens, **{name: read.cache}, **asked), whole)
    # Read from it, and not anew.
    for part in read.cache.state[0].values():
        part.tensors.update({name: torch.randn_like(x) for name, x in part.tensors.items()})
    assert not torch.equal(theirs.generate(tokens, **{name: read.cache}, **asked), whole)


@pytest.mark.parametrize("name", ["yaad", "titans_lmm", "atlas"])
def test_the_cache_does_not_grow(name):
    """Within a chunk it holds the anchor of the gradients besides: a second memory at most."""
    _, theirs = pair(name)
    (variant,) = Space.load(name).enumerate()
    every = variant.anchor_every

    def size(length):
        read = theirs(torch.zeros(1, length, dtype=torch.long), use_cache=True)
        return read.cache.nbytes

    for place in (0, 1, every - 1):  # within a chunk
        sizes = {size(chunks * every + place) for chunks in (4, 5, 16, 33)}
        assert len(sizes) == 1, place
        assert size(4 * every) <= sizes.pop() < 2 * size(4 * every)


def test_saved_and_loaded_by_transformers(models, tokens, tmp_path):
    _, theirs = models
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "miras"
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    assert AutoConfig.from_pretrained(tmp_path).variant == theirs.config.variant


def test_it_is_trained_as_any(models, tokens):
    _, theirs = models
    theirs.zero_grad()
    theirs(tokens, labels=tokens).loss.backward()
    logits, _ = theirs.backbone(tokens)
    expected = torch.autograd.grad(
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()),
        theirs.backbone.embedding.weight,
    )
    assert torch.allclose(theirs.get_input_embeddings().weight.grad, expected[0], atol=1e-6)


def test_padding_is_refused(models, tokens):
    _, theirs = models
    mask = torch.ones_like(tokens)
    assert torch.equal(theirs(tokens, attention_mask=mask).logits, theirs(tokens).logits)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="expected sequences of one length"):
        theirs(tokens, attention_mask=mask)
    with pytest.raises(ValueError, match="expected sequences of one length"):
        theirs.generate(tokens, attention_mask=mask, max_new_tokens=2)

"""A model that answers for a whole sequence from the hidden state of its last token."""

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from miras_search import checkpoint
from miras_search.errors import UserError
from miras_search.folder import CONFIG
from miras_search.nn.backbone import Backbone
from miras_search.nn.decoder import LastTokenDecoder, positions
from miras_search.plan import plan
from miras_search.recipe import Recipe
from miras_search.size import Size
from miras_search.trial import TrialSpec, run
from miras_search.variant import Variant

DELTA = Variant.from_dict(
    {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gd", "heads": 2}
)
SIZE = Size(width=8, layers=2, mlp=1.0)
VOCABULARY = 13


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Backbone(DELTA, SIZE, VOCABULARY, readout="last").eval()


@pytest.fixture
def tokens():
    return torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))


def test_every_parameter_gets_a_gradient(model, tokens):
    logits, _ = model(tokens)
    assert logits.shape == (2, 11, VOCABULARY)
    cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name


def test_only_the_last_hidden_state_is_read():
    torch.manual_seed(0)
    decoder = LastTokenDecoder(8, VOCABULARY)
    x = torch.randn(2, 5, 8)
    whole = decoder(x)
    assert (whole.std(dim=1) > 0).all()  # positions differ
    other = torch.cat([torch.randn(2, 4, 8), x[:, 4:]], 1)
    assert decoder(other).equal(whole)
    other[:, 4] += 1
    assert not decoder(other).isclose(whole).all(-1).any()


@pytest.mark.parametrize("width", [4, 9, 64])
def test_positions_are_sines_and_cosines(width):
    half = width // 2
    expected = torch.zeros(20, width, dtype=torch.float64)
    for t in range(20):
        for i in range(half):
            angle = torch.tensor(t / 10_000 ** (i / (half - 1)), dtype=torch.float64)
            expected[t, i], expected[t, half + i] = angle.sin(), angle.cos()
    torch.testing.assert_close(positions(20, width).double(), expected, rtol=0, atol=1e-5)


def test_what_continues_a_sequence_is_refused(model, tokens):
    _, state = model(tokens)
    refused = "readout 'last' answers from the last token of a whole sequence"
    with pytest.raises(ValueError, match=refused):
        model(tokens, state)
    with pytest.raises(ValueError, match=refused):
        next(model.stream(tokens.split(3, dim=1)))
    with pytest.raises(ValueError, match=refused):
        model.generate(tokens, 3)


def test_an_unknown_readout_is_told():
    with pytest.raises(ValueError, match="expected the readout 'each' or 'last', got 'first'"):
        Backbone(DELTA, SIZE, VOCABULARY, readout="first")  # pyright: ignore[reportArgumentType]


def test_the_plan_counts_the_decoder(model):
    counted = plan(DELTA, SIZE, VOCABULARY, 9, "last")
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    model.double()  # in float32 kernels may compute it, which nobody counts
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 9, dtype=torch.int64))
    assert counted.flops_per_token == counter.get_total_flops() // 9
    # Two maps with their biases and three norms.
    each = plan(DELTA, SIZE, VOCABULARY, 9)
    assert counted.parameters - each.parameters == 2 * 8 * (8 + 1) + 3 * 8


def test_a_checkpoint_keeps_the_readout(model, tokens, tmp_path):
    checkpoint.save(tmp_path, model, DELTA, SIZE, VOCABULARY, model.readout)
    again = checkpoint.load(tmp_path)
    assert again.readout == "last"
    assert again(tokens)[0].equal(model(tokens)[0])

    config = yaml.safe_load((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config | {"readout": "first"}))
    with pytest.raises(UserError, match="readout: expected 'each' or 'last', got"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_that_tells_no_readout_answers_at_each_token(tokens, tmp_path):
    model = Backbone(DELTA, SIZE, VOCABULARY)
    checkpoint.save(tmp_path, model, DELTA, SIZE, VOCABULARY)
    config = yaml.safe_load((tmp_path / CONFIG).read_text())
    del config["readout"]
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config))
    assert checkpoint.load(tmp_path)(tokens)[0].equal(model(tokens)[0])


@pytest.mark.trial
def test_compression_is_learned(tmp_path):
    """Four of four tokens, in a trial like any other, whose checkpoint answers as it was judged."""
    recipe = Recipe.from_dict(
        {
            "task": {"kind": "compression", "length": 5, "vocab": 5, "train_examples": 100}
            | {"eval_examples": 30},
            "size": {"width": 32, "layers": 1},
            "steps": 150,
            "evaluate": 1,
            "wandb": "disabled",
        }
    )
    record = run(
        TrialSpec(
            number=0,
            variant=DELTA.to_dict(),
            lr=1e-2,
            seed=0,
            recipe=recipe.to_dict(),
            folder=str(tmp_path),
            study="readout",
            wandb="disabled",
        )
    )
    assert record.state == "complete", record.reason
    levels = recipe.task.levels("validation")
    assert record.score is not None
    assert levels.plateau is not None
    assert record.score > levels.plateau + 0.1

    model = checkpoint.load(tmp_path)
    held_out = [recipe.task.dataset("validation", 0)[i] for i in range(30)]
    tokens, targets = (torch.stack(x)[:, :-1] for x in zip(*held_out, strict=True))
    with torch.no_grad():
        said = model(torch.stack([x for x, _ in held_out]))[0].argmax(-1)[:, :-1]
    assert targets.equal(tokens)
    assert (said == targets).float().mean().item() == pytest.approx(record.score, abs=1e-6)

"""Reading without end: in pieces, at a constant size, and from a file tomorrow."""

import math

import pytest
import torch
from safetensors.torch import save_file

from miras_search import load_state, save_state
from miras_search.checkpoint import POSITIONS
from miras_search.errors import UserError
from miras_search.nn.backbone import Backbone
from miras_search.nn.state import nbytes
from miras_search.size import Size
from miras_search.testing import cases, close, pairs
from miras_search.variant import Variant

VARIANT = Variant.from_dict(
    {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
    | {"chunk": 4, "heads": 2}
)


def model_of(variant, seed=0):
    torch.manual_seed(seed)
    return Backbone(variant, Size(width=8, layers=2), 13).double().eval()


def tokens_of(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(13, (2, count), generator=rng)


MACROS = [macro for macro in cases("macro") if macro.persistent < 100]


@pytest.mark.parametrize(
    "variant",
    [*pairs(chunk=4, heads=2)[:12], *(VARIANT.replace(macro=macro) for macro in MACROS)],
    ids=str,
)
def test_a_state_goes_on_after_a_file(variant, tmp_path):
    model, tokens = model_of(variant), tokens_of(14)
    with torch.no_grad():
        whole, _ = model(tokens)
        _, state = model(tokens[:, :6])
        save_state(state, tmp_path / "state")
        rest, _ = model(tokens[:, 6:], load_state(tmp_path / "state", str(whole.device)))
    close(rest, whole[:, 6:], f"{variant}: from a file")


def test_what_matrices_share_is_written_for_each(tmp_path):
    """Gates for each head are one tensor for all matrices, which a window keeps."""
    muon = {"algorithm": {"kind": "muon", "window": 4}, "chunk": 1}
    model, tokens = model_of(Variant.from_dict(VARIANT.to_dict() | muon)), tokens_of(5)
    with torch.no_grad():
        whole, _ = model(tokens)
        _, state = model(tokens[:, :1])
        held = [*state[0]["memory"].tensors.values()]
        assert len({x.data_ptr() for x in held}) < len(held)
        save_state(state, tmp_path / "state")
        rest, _ = model(tokens[:, 1:], load_state(tmp_path / "state", str(whole.device)))
    close(rest, whole[:, 1:], "from a file")


def test_a_stream_is_the_whole_in_pieces():
    model, tokens = model_of(VARIANT), tokens_of(23)
    parts = [logits for logits, _ in model.stream(tokens.split(5, dim=1))]
    assert not any(logits.requires_grad for logits in parts)
    close(torch.cat(parts, 1), model(tokens)[0].detach(), "a stream")


def test_the_state_of_a_stream_does_not_grow():
    model = model_of(VARIANT)
    pieces = (tokens_of(8, seed) for seed in range(50))
    sizes = {sum(map(nbytes, state)) for _, state in model.stream(pieces)}
    assert len(sizes) == 1
    held = {
        x.untyped_storage().nbytes() <= 16 * x.nbytes + 4096
        for _, state in model.stream(tokens_of(80).split(8, dim=1))
        for layer in state
        for part in layer.values()
        for x in part.tensors.values()
    }
    assert held == {True}


def test_generation_is_reading_what_was_written():
    model, prompt = model_of(VARIANT), tokens_of(7)
    written, state = model.generate(prompt, 5, temperature=0)
    logits, _ = model(torch.cat([prompt, written], dim=1))
    assert written.equal(logits[:, 6:-1].argmax(-1))
    assert state[0]["memory"].position == 7 + 4
    again, _ = model.generate(written[:, -1:], 3, state, temperature=0)
    longer, _ = model.generate(prompt, 8, temperature=0)
    assert torch.cat([written, again], 1).equal(longer)


def test_generation_is_drawn_from_the_softmax():
    """4,000 draws of one token; a false alarm has odds below 1e-6 (six standard deviations)."""
    model, prompt = model_of(VARIANT), tokens_of(3)[:1]
    with torch.no_grad():
        chances = (model(prompt)[0][0, -1] / 0.7).softmax(-1)
    rng = torch.Generator(prompt.device).manual_seed(0)
    drawn, _ = model.generate(
        prompt.expand(4000, -1).contiguous(), 1, temperature=0.7, generator=rng
    )
    share = drawn[:, 0].bincount(minlength=13) / 4000
    assert ((share - chances).abs() < 6 * (chances * (1 - chances) / 4000).sqrt()).all()


def test_what_cannot_be_read_or_written_is_told(tmp_path):
    model = model_of(VARIANT)
    with pytest.raises(ValueError, match="at least one token"):
        model.generate(tokens_of(0), 3)
    for tokens, temperature in ((0, 1), (1, -0.5), (1, math.nan), (1, math.inf)):
        with pytest.raises(ValueError, match=f"got tokens {tokens} and temperature {temperature}"):
            model.generate(tokens_of(2), tokens, temperature=temperature)
    assert model.generate(tokens_of(2), 1, temperature=1e-40)[0].shape == (2, 1)
    for wrong in (tokens_of(3)[0], tokens_of(3)[:, :0], tokens_of(3)[None]):
        with pytest.raises(ValueError, match=r"expected \[B, T\] of at least one token"):
            next(model.stream([wrong]))
    with pytest.raises(ValueError, match=r"tokens are torch.float32: expected whole numbers"):
        model(torch.ones(1, 3))
    (tmp_path / "other").write_text("no state")
    for name in ("other", "missing"):
        with pytest.raises(UserError, match=f"{name}: not a state that save_state wrote"):
            load_state(tmp_path / name)
    with pytest.raises(UserError, match="no folder"):
        save_state(model(tokens_of(3))[1], tmp_path / "nowhere" / "state")
    with pytest.raises(UserError, match="it is a folder"):
        save_state(model(tokens_of(3))[1], tmp_path)
    with pytest.raises(ValueError, match="state is a Tensor: expected what a model returns"):
        save_state(model(tokens_of(3))[0], tmp_path / "state")
    save_state(model(tokens_of(3))[1], tmp_path / "state")
    with pytest.raises(UserError, match="device nowhere is invalid"):
        load_state(tmp_path / "state", "nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not to be had on the device 'cuda'"):
            load_state(tmp_path / "state", "cuda")
    assert {*tmp_path.iterdir()} == {tmp_path / "other", tmp_path / "state"}


@pytest.mark.parametrize(
    "positions", ["[]", "[{}]", "[3]", '[{"conv": 1.5}]', '[{"conv": -3}]', '"a"', '{"0": 1}']
)
def test_a_state_file_that_was_changed_is_told(tmp_path, positions):
    save_file({"0:conv:inputs": torch.zeros(1)}, tmp_path / "state", {"positions": positions})
    with pytest.raises(UserError, match="not a state that save_state wrote"):
        load_state(tmp_path / "state")
    save_file({"-1:conv:inputs": torch.zeros(1)}, tmp_path / "state", {POSITIONS: '[{"conv": 3}]'})
    with pytest.raises(UserError, match="not a state that save_state wrote"):
        load_state(tmp_path / "state")


def test_a_state_of_another_model_or_batch_is_refused():
    model = model_of(VARIANT)
    _, state = model(tokens_of(3))
    for wrong in (state[:-1], (*state, *state)):
        with pytest.raises(ValueError, match=f"a state of {len(wrong)} layers: expected one of"):
            model(tokens_of(3), wrong)
    with pytest.raises(ValueError, match=r"state holds \{'inputs'"):
        model(tokens_of(3).repeat(2, 1), state)
    with pytest.raises(ValueError, match=r"of the state is torch.float64: expected that of the"):
        model_of(VARIANT).bfloat16()(tokens_of(3), state)


@pytest.mark.parametrize("macro", MACROS, ids=str)
def test_a_model_of_short_numbers_goes_on(macro):
    """Its memories are held in float32 all the same. Rounded to eight bits, so only near."""
    model, tokens = model_of(VARIANT.replace(macro=macro)).bfloat16(), tokens_of(9)
    with torch.no_grad():
        whole, _ = model(tokens)
        _, state = model(tokens[:, :5])
        rest, _ = model(tokens[:, 5:], state)
    torch.testing.assert_close(rest, whole[:, 5:], rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ((), "state is an empty tuple"),
        ([{}, {}], "state is a list"),
        (({}, None), "layer 1 of the state is no mapping"),
        (({"memory": 1}, {}), "layer 0 of the state is no mapping"),
        (({"memory": {"W": torch.zeros(1)}}, {}), "layer 0 of the state is no mapping"),
    ],
)
def test_what_is_no_state_is_refused(wrong, told, tmp_path):
    with pytest.raises(ValueError, match=f"{told}.*expected what a model returns after its logits"):
        model_of(VARIANT)(tokens_of(3), wrong)
    with pytest.raises(ValueError, match=told):
        save_state(wrong, tmp_path / "state")
    assert not [*tmp_path.iterdir()]


FORMED = VARIANT.to_dict() | {"algorithm": {"kind": "muon", "window": 3}, "chunk": 64}


DELTA = {"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "gd", "heads": 2}


@pytest.mark.parametrize(
    "variant",
    [
        *(VARIANT.replace(macro=m) for m in MACROS),
        VARIANT.replace(conv=2),
        *map(Variant.from_dict, (FORMED, DELTA)),
    ],
    ids=str,
)
def test_a_state_holds_nothing_of_a_long_piece(variant):
    model = model_of(variant)
    # Of one sequence: with several, a view of a few tokens is seldom contiguous.
    (_, state), *_ = model.stream([tokens_of(300)[:1]])
    held = [x for layer in state for part in layer.values() for x in part.tensors.values()]
    assert all(x.untyped_storage().nbytes() <= 8 * x.nbytes for x in held)

"""Splicing: the identity to the last bit, and edits that change what they name and nothing else."""

import pytest
import torch
import torch.nn.functional as F

import jackfield as jf
from jackfield.core.errors import EditError
from jackfield.dictionaries import Splice
from jackfield.dictionaries.topk_dictionary import TopKDictionary
from jackfield.edits import Context, load_edits, save_edits

D, LATENTS, K = 12, 40, 4
HERE = Context("x")


def sae(radius: float | None = None, site: str = "x") -> TopKDictionary:
    decoder = F.normalize(torch.randn(LATENTS, D))
    weights = {
        "encoder": decoder + 0.1 * torch.randn(LATENTS, D),
        "encoder_bias": 0.1 * torch.randn(LATENTS),
        "decoder": decoder,
        "decoder_bias": torch.randn(D),
        "density": torch.rand(LATENTS),
    }
    history = [{"rows": 10.0, "FVU": 0.5, "dead": 1, "L0": 4.0}]
    return TopKDictionary({"k": K}, site, weights, radius=radius, history=history)


def test_splice_gives_the_reconstruction():
    x, one = torch.randn(2, 3, D), sae()
    (edit,) = one.edits(where="all")
    flat = x.reshape(-1, D)
    torch.testing.assert_close(
        edit.apply(x, HERE).reshape(-1, D), one.decode(one.encode(flat)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_splice_with_error_changes_no_bit(dtype):
    x = torch.randn(2, 3, D, dtype=dtype)
    (edit,) = sae().edits("splice_with_error", where="all")
    assert torch.equal(edit.apply(x, HERE), x)


def test_setting_a_latent_to_what_it_is_changes_no_bit():
    one, x = sae(), torch.randn(1, D)
    values, latents = one.chosen(x)
    (edit,) = one.clamp(int(latents[0, 0]), float(values[0, 0]), where="all")
    assert torch.equal(edit.apply(x, HERE), x)


def test_ablate_takes_off_the_latents_own_part_and_no_more():
    one, x = sae(), torch.randn(6, D)
    codes = one.encode(x)
    gone = codes.sum(dim=0).topk(2).indices.tolist()
    (edit,) = one.ablate(gone, where="all")
    expected = x - codes[:, gone] @ one.directions[gone]
    torch.testing.assert_close(edit.apply(x, HERE), expected)


def test_clamp_sets_the_code_whether_it_fires_or_not():
    one, x = sae(), torch.randn(6, D)
    codes = one.encode(x)
    silent = int((codes == 0).all(dim=0).nonzero()[0])
    (edit,) = one.clamp(silent, 3.0, where="all")
    torch.testing.assert_close(edit.apply(x, HERE), x + 3.0 * one.directions[silent])


def test_steer_adds_the_direction():
    one, x = sae(), torch.randn(6, D)
    (edit,) = one.steer(5, -2.0, where="all")
    torch.testing.assert_close(edit.apply(x, HERE), x - 2.0 * one.directions[5])


def test_rows_outside_pass_unchanged():
    one = sae(radius=20.0)
    x = torch.randn(4, D)
    x[1] *= 1000  # a sink
    (edit,) = one.edits(where="all")
    new = edit.apply(x, HERE)
    assert torch.equal(new[1], x[1])
    assert one.inside(x).tolist() == [True, False, True, True]
    assert not torch.equal(new[0], x[0])


def test_the_graph_is_kept():
    one = sae()
    x = torch.randn(3, D, requires_grad=True)
    weights = one.decoder.clone().requires_grad_()
    edit = Splice(one.encoder, one.encoder_bias, weights, one.decoder_bias, K, at="x", where="all")
    edit.apply(x, HERE).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert edit.parameters()[0] is weights
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["splice", "splice_with_error", "ablate", "clamp"])
def test_edits_are_saved_and_read_back(tmp_path, kind):
    one, x = sae(radius=50.0), torch.randn(4, D)
    made = {
        "ablate": lambda: one.ablate([1, 3], where="all"),
        "clamp": lambda: one.clamp(2, 1.5, where="all"),
    }.get(kind, lambda: one.edits(kind, where="all"))()
    (back,) = load_edits(save_edits(tmp_path / "edits", made))
    assert torch.equal(back.apply(x, HERE), made[0].apply(x, HERE))
    assert back.settings() == made[0].settings()


def test_input_of_another_width_is_refused():
    (edit,) = sae().edits(where="all")
    with pytest.raises(EditError, match=r"x, Splice: expected .*12"):
        edit.apply(torch.randn(2, D + 1), HERE)


def test_in_a_model(tiny, tokens):
    site = "layers.1.resid_post"
    plain = tiny.run(tokens, sites=[site])
    x = plain[site].reshape(-1, 32)
    decoder = F.normalize(torch.randn(64, 32))
    weights = {
        "encoder": decoder.clone(),
        "encoder_bias": torch.zeros(64),
        "decoder": decoder,
        "decoder_bias": x.mean(dim=0),
        "density": torch.zeros(64),
    }
    one = TopKDictionary({"k": 8}, site, weights, radius=None, history=[])
    kept = tiny.run(tokens, edits=one.edits("splice_with_error", where="all"))
    assert torch.equal(kept.logits, plain.logits)
    spliced = tiny.run(tokens, sites=[site], edits=one.edits(where="all"))
    expected = one.decode(one.encode(x)).reshape(spliced[site].shape)
    torch.testing.assert_close(spliced[site], expected)
    assert not torch.equal(spliced.logits, plain.logits)
    with tiny.editing(one.edits(where="all")):
        inside = tiny.module(tokens).logits
    torch.testing.assert_close(inside, spliced.logits)


def test_sinks_are_left_alone_by_default():
    assert sae().edits()[0].where == jf.core.where.where("~sinks")

"""Splicing: the identity to the last bit, and edits that change what they name and nothing else."""

import pytest
import torch
import torch.nn.functional as F

import jackfield as jf
from jackfield.core.errors import EditError
from jackfield.dictionaries import SparseDictionary, Splice
from jackfield.edits import Context, load_edits, save_edits

D, LATENTS, K = 12, 40, 4
HERE = Context("x")
HISTORY = [{"rows": 10.0, "FVU": 0.5, "dead": 1, "L0": 4.0}]


def weights_of(latents: int, d: int, out: int | None = None) -> dict[str, torch.Tensor]:
    decoder = F.normalize(torch.randn(latents, out or d))
    return {
        "encoder": (decoder if out is None else 0) + 0.1 * torch.randn(latents, d),
        "encoder_bias": 0.1 * torch.randn(latents),
        "centre": torch.randn(d),
        "decoder": decoder,
        "decoder_bias": torch.randn(out or d),
        "density": torch.rand(latents),
    }


def sae(radius: float | None = None, rule: str = "k", site: str = "x") -> SparseDictionary:
    weights = weights_of(LATENTS, D)
    if rule == "threshold":
        weights["threshold"] = 0.3 * torch.rand(LATENTS)
    bound = () if radius is None else (radius,)
    k = K if rule == "k" else None
    return SparseDictionary("TopK", {}, weights, site=site, k=k, radius=bound, history=HISTORY)


@pytest.mark.parametrize("rule", ["k", "threshold"])
def test_splice_gives_the_reconstruction(rule):
    x, one = torch.randn(2, 3, D), sae(rule=rule)
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


@pytest.mark.parametrize("rule", ["k", "threshold"])
def test_setting_a_latent_to_what_it_is_changes_no_bit(rule):
    one, x = sae(rule=rule), torch.randn(1, D)
    codes = one.encode(x)[0]
    latent = int(codes.argmax())
    assert codes[latent] > 0
    (edit,) = one.clamp(latent, float(codes[latent]), where="all")
    assert torch.equal(edit.apply(x, HERE), x)


@pytest.mark.parametrize("rule", ["k", "threshold"])
def test_ablate_takes_off_the_latents_own_part_and_no_more(rule):
    one, x = sae(rule=rule), torch.randn(6, D)
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
    read = one.encoder, one.encoder_bias, one.centre
    edit = Splice(*read, weights, one.decoder_bias, k=K, at="x", where="all")
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
    weights = weights_of(64, 32) | {"centre": x.mean(dim=0), "decoder_bias": x.mean(dim=0)}
    one = SparseDictionary("TopK", {}, weights, site=site, k=8, history=[])
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


READ, WRITTEN = "layers.1.mlp_in", "layers.1.mlp_out"


def transcoder(*, skip: bool) -> SparseDictionary:
    weights = weights_of(64, 32, 32) | ({"skip": 0.1 * torch.randn(32, 32)} if skip else {})
    ends = {"site": WRITTEN, "sources": (READ,)}
    return SparseDictionary("Transcoder", {}, weights, k=8, history=HISTORY, **ends)


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_transcoder_takes_the_place_of_the_mlp(tiny, tokens, skip):
    one = transcoder(skip=skip)
    plain = tiny.run(tokens, sites=[READ, WRITTEN])
    new = tiny.run(tokens, sites=[WRITTEN], edits=one.edits(where="all"))[WRITTEN]
    x = plain[READ].reshape(-1, 32)
    expected = one.encode(x) @ one.decoder + one.decoder_bias
    expected = expected + x @ one.skip if skip else expected
    torch.testing.assert_close(new.reshape(-1, 32), expected)
    torch.testing.assert_close(one.reconstruct(x), expected)


def test_a_transcoders_latents_are_set_in_the_mlps_output(tiny, tokens):
    one = transcoder(skip=True)
    plain = tiny.run(tokens, sites=[READ, WRITTEN])
    codes = one.encode(plain[READ].reshape(-1, 32))
    latent = int(codes.sum(dim=0).argmax())
    new = tiny.run(tokens, sites=[WRITTEN], edits=one.ablate(latent, where="all"))[WRITTEN]
    expected = plain[WRITTEN].reshape(-1, 32) - codes[:, [latent]] * one.decoder[latent]
    torch.testing.assert_close(new.reshape(-1, 32), expected, rtol=1e-4, atol=1e-5)
    kept = tiny.run(tokens, edits=one.edits("splice_with_error", where="all"))
    assert torch.equal(kept.logits, plain.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_edit_that_reads_elsewhere_keeps_dtype_graph_and_input(dtype):
    one = transcoder(skip=True)
    x, read = torch.randn(2, 3, 32).to(dtype), torch.randn(2, 3, 32).to(dtype).requires_grad_()
    context = Context(WRITTEN, read={READ: read}.__getitem__)
    (edit,) = one.edits(where="all")
    kept = x.clone()
    new = edit.apply(x, context)
    assert new.dtype == dtype
    assert torch.equal(kept, x)
    (gradient,) = torch.autograd.grad(new.float().square().sum(), read)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_sources_that_do_not_fit_are_refused(tiny, tokens):
    one = transcoder(skip=False)
    (edit,) = one.edits(where="all")
    for read in (torch.randn(2, 3, 31), torch.randn(2, 4, 32)):
        with pytest.raises(
            EditError, match=r"expected 6 rows, 32 wide in all, of layers\.1\.mlp_in"
        ):
            edit.apply(torch.randn(2, 3, 32), Context(WRITTEN, read=lambda _, r=read: r))


def test_edits_of_a_transcoder_are_saved(tmp_path):
    one, x, read = transcoder(skip=True), torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    context = Context(WRITTEN, read=lambda _: read)
    (edit,) = one.ablate([1, 2], where="all")
    (back,) = load_edits(save_edits(tmp_path / "edits", [edit]))
    assert back.reads == (READ,)
    assert torch.equal(back.apply(x, context), edit.apply(x, context))

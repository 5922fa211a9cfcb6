"""Crosscoder: shared and private features are told apart; its loss; its edits at each site."""

import pytest
import torch
import torch.nn.functional as F
from tests.dictionaries.plain import D, assert_same_gradients, outcome, pre, rows, weights_for

from jackfield.core.errors import EditError, SiteError
from jackfield.dictionaries import Crosscoder
from jackfield.dictionaries.batch_topk import BatchTopKObjective
from jackfield.dictionaries.relu import ReLUObjective
from jackfield.streams import Stream

QUIET = {"progress": False}
SPLIT = (4, 6)  # the two sites' widths; together D
LAYERS = ("layers.0.resid_post", "layers.1.resid_post")


def lengths(decoder):
    return decoder[:, :4].norm(dim=1) + decoder[:, 4:].norm(dim=1)


def test_the_l1_loss_weighs_codes_by_the_summed_lengths():
    x, mine, plain = rows(), weights_for(), weights_for()
    objective = ReLUObjective(0.3, 0.0, 0.0, unit=True)
    objective.widths = SPLIT
    z = pre(x, plain).relu()
    x_hat = z @ plain["decoder"] + plain["decoder_bias"]
    loss = (x - x_hat).square().sum(dim=1).mean() / D
    loss = loss + 0.3 * (z * lengths(plain["decoder"])).sum(dim=1).mean() / D**0.5
    assert_same_gradients(outcome(objective, x, mine).loss, mine, loss, plain)


def test_latents_rank_by_value_times_summed_lengths():
    x, weights = rows(), weights_for()
    objective = BatchTopKObjective(2, 0.0, None)
    objective.widths = SPLIT
    found = outcome(objective, x, weights)
    rank = pre(x, weights).relu() * lengths(weights["decoder"])
    kept = found.code.dense() > 0
    assert rank[kept].min() > rank[~kept].max()
    torch.testing.assert_close(found.noted["least"], rank[kept].min().detach())
    rule, _ = objective.rule(weights, found.noted)
    torch.testing.assert_close(
        rule["threshold"] * lengths(weights["decoder"]), found.noted["least"].expand(16)
    )


@pytest.fixture(scope="module")
def truth():
    """Codes of 30 features: 10 at both sites, 10 only at the first, 10 only at the second."""
    draw = torch.Generator().manual_seed(12)
    which = torch.rand(8000, 30, generator=draw).topk(3).indices
    codes = torch.zeros(8000, 30).scatter(1, which, 1 + torch.rand(8000, 3, generator=draw))
    first = F.normalize(torch.randn(30, 16, generator=draw))
    second = F.normalize(torch.randn(30, 24, generator=draw))
    first[20:], second[10:20] = 0, 0
    noise = 0.02 * torch.randn(8000, 40, generator=draw)
    sites = {"a": codes @ first + noise[:, :16] + 2, "b": 50 * (codes @ second + noise[:, 16:]) - 7}
    return Stream.from_tensor(sites), first, second


@pytest.mark.parametrize("sparsity", ["batch_topk", "l1"])
def test_shared_and_private_features_are_found_and_told_apart(truth, sparsity):
    stream, first, second = truth
    one = Crosscoder(
        latents=40, sparsity=sparsity, k=3, l1=0.15, rows=150_000, batch=512, dead_after=4000
    ).fit(stream, **QUIET)
    at_a, at_b = (F.normalize(one[site].directions) for site in "ab")
    cosines = torch.cat([(first @ at_a.T)[:20], (second @ at_b.T)[20:]])
    best = cosines.argmax(dim=1)
    assert float(cosines.amax(dim=1).mean()) > 0.95
    share = one.shares[best, 0]
    assert float(share[:10].sub(0.5).abs().mean()) < 0.1
    assert float(share[10:20].mean()) > 0.9
    assert float(share[20:].mean()) < 0.1
    assert all(quality.fvu < 0.15 for quality in one.measure(stream).values())


@pytest.fixture
def in_model(tiny, tokens):
    run = tiny.run(tokens, sites=list(LAYERS), logits=False)
    stream = Stream.from_tensor({site: run[site].flatten(0, 1) for site in LAYERS})
    config = Crosscoder(latents=24, k=4, rows=400, batch=10)
    return config.fit(stream, **QUIET), run


def test_the_last_site_is_rebuilt_from_all_in_one_forward(tiny, tokens, in_model):
    one, run = in_model
    x = torch.cat([run[site].flatten(0, 1) for site in LAYERS], dim=-1)
    new = tiny.run(tokens, sites=[LAYERS[1]], edits=one.edits(where="all"))[LAYERS[1]]
    torch.testing.assert_close(
        new.flatten(0, 1), one[LAYERS[1]].reconstruct(x), rtol=1e-4, atol=1e-4
    )


def test_an_earlier_site_cannot_wait_for_a_later_one(tiny, tokens, in_model):
    one, _ = in_model
    with pytest.raises(EditError, match="earlier in the forward"):
        tiny.run(tokens, edits=one[LAYERS[0]].edits(where="all"))


def test_every_site_is_rebuilt_from_a_run_before(tiny, tokens, in_model):
    one, run = in_model
    x = torch.cat([run[site].flatten(0, 1) for site in LAYERS], dim=-1)
    edits = one.rebuilding(run, where="all")
    assert [edit.at for edit in edits] == list(LAYERS)
    new = tiny.run(tokens, sites=list(LAYERS), edits=edits)
    for site in LAYERS:
        torch.testing.assert_close(new[site].flatten(0, 1), one[site].reconstruct(x))


def test_a_latent_is_silenced_at_the_last_site(tiny, tokens, in_model):
    one, run = in_model
    last = one[LAYERS[1]]
    x = torch.cat([run[site].flatten(0, 1) for site in LAYERS], dim=-1)
    codes = last.encode(x)
    latent = int(codes.sum(dim=0).argmax())
    new = tiny.run(tokens, sites=[LAYERS[1]], edits=last.ablate(latent, where="all"))[LAYERS[1]]
    expected = run[LAYERS[1]].flatten(0, 1) - codes[:, [latent]] * last.directions[latent]
    torch.testing.assert_close(new.flatten(0, 1), expected, rtol=1e-4, atol=1e-4)


def test_a_site_that_it_does_not_have_is_said(in_model):
    one, _ = in_model
    with pytest.raises(SiteError, match=r"one of layers\.0"):
        one["layers.0.resid_pre"]

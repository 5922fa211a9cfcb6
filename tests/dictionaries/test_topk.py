"""TopK: its defining properties, the loss against plain autograd, planted truth and its control."""

import math

import pytest
import torch
import torch.nn.functional as F

from jackfield.core.config import from_json, to_json
from jackfield.core.errors import ConfigError, InputError
from jackfield.dictionaries import Dictionary, SparseDictionary, TopK, fvu
from jackfield.dictionaries.objective import Seen
from jackfield.dictionaries.sparse_method import learner_of
from jackfield.dictionaries.topk import TopKObjective
from jackfield.dictionaries.training_units import geometric_median
from jackfield.streams import Stream

WIDTH, TRUE, ACTIVE = 32, 48, 3
SMALL = TopK(latents=24, k=4, rows=2048, batch=128)
PLANTED = TopK(latents=64, k=ACTIVE, rows=200_000, batch=512, dead_after=4000)


@pytest.fixture(scope="module")
def true_directions():
    return F.normalize(torch.randn(TRUE, WIDTH, generator=torch.Generator().manual_seed(5)))


@pytest.fixture(scope="module")
def planted(true_directions):
    """[row, d]: each row three of the true directions, 1 to 2 long, about a mean, with noise."""
    generator = torch.Generator().manual_seed(6)
    rows = 20_000
    which = torch.rand(rows, TRUE, generator=generator).topk(ACTIVE).indices
    amounts = 1 + torch.rand(rows, ACTIVE, generator=generator)
    x = torch.zeros(rows, TRUE).scatter(1, which, amounts) @ true_directions
    return x + 5.0 + 0.02 * torch.randn(rows, WIDTH, generator=generator)


@pytest.fixture(scope="module")
def small():
    """A quick fit on rows with an odd scale, and those rows."""
    x = 30 * torch.randn(1000, 16, generator=torch.Generator().manual_seed(1)) + 200
    return SMALL.fit(Stream.from_tensor(x), progress=False), x


def mean_max_cosine(true, learned):
    return float((true @ learned.T).amax(dim=1).mean())


def weights_for(latents: int, d: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    names = {"encoder": (latents, d), "encoder_bias": (latents,)}
    names |= {"decoder": (latents, d), "decoder_bias": (d,)}
    return {
        name: torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)
        for name, shape in names.items()
    }


def loss_of(x, weights, k, *, variance, dead, k_aux, aux):
    centred = x - weights["decoder_bias"]
    seen = Seen(x, centred, centred, variance, dead, 0.5)
    return TopKObjective(k, aux, k_aux).loss(seen, weights)


def dense_loss(x, weights, k, *, variance, dead, k_aux, aux):
    """The loss as the paper has it, dense, by autograd alone."""
    pre = (x - weights["decoder_bias"]) @ weights["encoder"].T + weights["encoder_bias"]
    chosen = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    z = torch.relu(pre) * chosen
    e = x - (z @ weights["decoder"] + weights["decoder_bias"])
    loss = e.square().sum(dim=1).mean() / variance
    is_dead = torch.zeros(pre.shape[1], dtype=torch.bool)
    is_dead[dead] = True
    among = torch.relu(pre).masked_fill(~is_dead, 0.0)
    kept = torch.zeros_like(pre).scatter(1, among.topk(k_aux).indices, 1.0)
    e = e.detach()
    e_hat = (among * kept) @ weights["decoder"]
    spread = (e - e.mean(dim=0)).square().sum()
    return loss + aux * (e - e_hat).square().sum() / spread


def test_k_latents_are_active_and_the_rest_exactly_zero(small):
    sae, x = small
    codes = sae.encode(x)
    active = (codes > 0).sum(dim=1)
    assert int(active.max()) == SMALL.k
    assert (active == SMALL.k).double().mean() > 0.95
    assert (codes >= 0).all()


def test_decoder_rows_have_length_1(small):
    sae, _ = small
    torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(SMALL.latents))


def test_training_helps_and_the_scale_is_folded_in(small):
    sae, x = small
    measured = sae.measure(Stream.from_tensor(x))
    assert measured.fvu == pytest.approx(fvu(x, sae.decode(sae.encode(x))), rel=1e-6)
    assert measured.fvu < 0.8 * sae.history[0]["FVU"]
    last = sae.history[-1]
    assert last["FVU"] == pytest.approx(measured.fvu, rel=0.15)
    assert last["L0"] == pytest.approx(measured.l0, rel=0.02)
    assert last["rows"] == SMALL.rows


@pytest.mark.parametrize("dead", [[], [1, 4, 9], list(range(12))], ids=["none", "few", "many"])
def test_loss_and_gradients_equal_plain_autograd(dead):
    x = torch.randn(16, 10, dtype=torch.float64)
    settings = {"variance": torch.tensor(10.0).double(), "k_aux": 5, "aux": 1 / 32 * bool(dead)}
    mine, plain = weights_for(30, 10), weights_for(30, 10)
    indices = torch.tensor(dead, dtype=torch.int64)
    found = loss_of(x, mine, 4, dead=indices, **settings)
    loss, error = found.loss, found.error.detach()
    expected = dense_loss(x, plain, 4, dead=indices, **settings)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for name in plain:
        torch.testing.assert_close(mine[name].grad, plain[name].grad, rtol=1e-9, atol=1e-12)
    assert float(error) > 0


def test_the_auxiliary_loss_reaches_the_encoder_of_dead_latents():
    """A peer's fused encoder loses this gradient, so that its dead latents stay dead."""
    x, weights = torch.randn(8, 6, dtype=torch.float64), weights_for(12, 6)
    with torch.no_grad():
        weights["encoder"][[2, 7]] *= 1e-3  # never among the k largest
    dead = torch.tensor([2, 7])

    def loss(rows, bias):
        inside = dict(weights)
        inside["encoder"] = weights["encoder"].detach().index_copy(0, dead, rows)
        inside["encoder_bias"] = weights["encoder_bias"].detach().index_copy(0, dead, bias)
        variance = torch.tensor(6.0, dtype=torch.float64)
        return loss_of(x, inside, 3, variance=variance, dead=dead, k_aux=4, aux=0.5).loss

    rows = weights["encoder"].detach()[dead].clone().requires_grad_()
    bias = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (rows, bias))
    (gradient,) = torch.autograd.grad(loss(rows, bias), rows)
    assert (gradient.norm(dim=1) > 1e-3).all()


def test_the_auxiliary_loss_is_finite_where_nothing_is_missed():
    """k = latents = d with an orthonormal dictionary rebuilds x; the error has no variance."""
    x = torch.rand(8, 4)
    eye, zero = torch.eye(4), torch.zeros(4)
    weights = {"encoder": eye, "encoder_bias": zero, "decoder": eye.clone(), "decoder_bias": zero}
    weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
    dead, variance = torch.tensor([0]), torch.tensor(1.0)
    loss = loss_of(x, weights, 4, variance=variance, dead=dead, k_aux=2, aux=1 / 32).loss
    loss.backward()
    assert loss.isfinite()
    assert all(torch.isfinite(each.grad).all() for each in weights.values())


def test_planted_directions_are_found(planted, true_directions):
    sae = PLANTED.fit(Stream.from_tensor(planted), progress=False)
    assert mean_max_cosine(true_directions, sae.directions) > 0.95
    assert sae.measure(Stream.from_tensor(planted)).fvu < 0.03


def test_in_noise_nothing_is_found(planted, true_directions):
    """The control: Gaussian rows of the same mean and covariance as the planted ones."""
    generator = torch.Generator().manual_seed(7)
    covariance = torch.linalg.cholesky(planted.T.cov())
    noise = torch.randn(len(planted), WIDTH, generator=generator) @ covariance.T
    noise += planted.mean(dim=0)
    sae = PLANTED.fit(Stream.from_tensor(noise), progress=False)
    strangers = F.normalize(torch.randn(64, WIDTH, generator=generator))
    by_chance = mean_max_cosine(true_directions, strangers)
    assert mean_max_cosine(true_directions, sae.directions) < by_chance + 0.2
    isotropic = torch.randn(len(planted), WIDTH, generator=generator)
    blind = PLANTED.fit(Stream.from_tensor(isotropic), progress=False)
    left = blind.measure(Stream.from_tensor(isotropic)).fvu
    assert least_fvu_of_noise(WIDTH, 64, ACTIVE) < left < 0.9


def least_fvu_of_noise(d: int, latents: int, k: int) -> float:
    """No dictionary can do better on isotropic Gaussian rows.

    A row's share in one span of k directions is Beta(k / 2, (d − k) / 2); with N spans to choose
    from, the expected largest share is at most ∫ min(1, N · P(share > t)) dt.
    """
    t = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64)
    density = t ** (k / 2 - 1) * (1 - t) ** ((d - k) / 2 - 1)
    above = density.flip(0).cumsum(0).flip(0) / density.sum()
    return 1 - float((math.comb(latents, k) * above).clamp(max=1).mean())


def test_the_same_seed_gives_the_same_bits_and_another_does_not(small):
    sae, x = small
    again = SMALL.fit(Stream.from_tensor(x), progress=False)
    other = TopK(**{**to_json(SMALL), "seed": 1}).fit(Stream.from_tensor(x), progress=False)
    for name, value in sae.state()[1].items():
        assert torch.equal(value, again.state()[1][name]), name
    assert not torch.equal(sae.decoder, other.decoder)


@torch.no_grad()
def test_fitting_works_where_gradients_are_off(small):
    sae, x = small
    assert torch.equal(SMALL.fit(Stream.from_tensor(x), progress=False).decoder, sae.decoder)


def test_encoding_in_parts_gives_the_same_codes(small):
    sae, x = small
    rows = sae.encode(x)
    torch.testing.assert_close(torch.cat([sae.encode(part) for part in x.split(77)]), rows)


def test_save_and_load_give_the_same_object(small, tmp_path):
    sae, x = small
    back = Dictionary.load(sae.save(tmp_path / "sae"))
    assert isinstance(back, SparseDictionary)
    assert torch.equal(back.encode(x), sae.encode(x))
    assert torch.equal(back.decode(back.encode(x)), sae.decode(sae.encode(x)))
    assert (back.history, back.radius, back.site) == (sae.history, sae.radius, sae.site)
    assert back.report().text == sae.report().text


def test_config_survives_json():
    config = TopK(latents=99, k=7, learning_rate=1e-4, reach=None)
    assert from_json(TopK, to_json(config)) == config


def test_rows_of_low_precision_and_slanted_rows_are_taken(small):
    _, x = small
    for form in (x.bfloat16(), x.T.contiguous().T, x.double()):
        sae = SMALL.fit(Stream.from_tensor(form), progress=False)
        assert sae.encode(form).dtype == torch.float32
        assert sae.history[-1]["FVU"] < 0.75


def test_sinks_that_slipped_through_do_not_spoil_the_fit(small):
    sae, x = small
    with_sinks = x.clone()
    with_sinks[::200] *= 300
    fitted = SMALL.fit(Stream.from_tensor(with_sinks), progress=False)
    clean = torch.ones(len(x), dtype=torch.bool)
    clean[::200] = False
    assert torch.equal(fitted.inside(with_sinks), clean)
    measured = fitted.measure(Stream.from_tensor(with_sinks))
    assert measured.outside == 5
    assert measured.fvu == pytest.approx(sae.measure(Stream.from_tensor(x)).fvu, rel=0.15)
    everything = TopK(**{**to_json(SMALL), "reach": None}).fit(
        Stream.from_tensor(with_sinks), progress=False
    )
    assert everything.radius == ()
    assert everything.inside(with_sinks).all()


@pytest.mark.parametrize(("aux", "fewest", "most"), [(0.0, 12, 16), (1 / 32, 0, 7)])
def test_dead_latents_come_back_by_the_auxiliary_loss(planted, aux, fewest, most):
    config = TopK(latents=48, k=ACTIVE, batch=500, dead_after=1000, aux=aux)
    learner = learner_of(config, ("x",))
    learner.start({"x": planted[:8000]})
    with torch.no_grad():
        learner.weights["encoder_bias"][:16] = -2.0  # too low to be among the k largest
    for step in range(200):
        learner.step({"x": planted[500 * (step % 40) :][:500]}, (step + 0.5) / 200)
        if step % 5 == 4:
            learner.look()
    assert fewest <= int((learner.held["dead"] < 16).sum()) <= most


def test_geometric_median_is_not_moved_by_outliers():
    x = torch.randn(500, 4)
    centre = geometric_median(x)
    x[:5] += 1e6
    assert (geometric_median(x) - centre).norm() < 0.1
    assert (x.mean(dim=0) - centre).norm() > 1000


def test_report_says_what_was_learned(small):
    sae, _ = small
    report = sae.report()
    assert "24 latents, 4 on each token" in report.summary
    assert len(report.table) == len(sae.history)
    assert report.figure() is not None


def test_edits_name_their_latents_and_modes(small):
    sae, _ = small
    with pytest.raises(InputError, match="latents from 0 to 23, got 24"):
        sae.ablate([3, 24])
    with pytest.raises(InputError, match="mode='splice' or"):
        sae.edits("slice")


@pytest.mark.parametrize(
    ("config", "rows", "error", "words"),
    [
        (TopK(latents=4, k=5), torch.randn(99, 3), ConfigError, "k <= latents = 4, got k = 5"),
        (TopK(), torch.randn(99, 3), InputError, r"at least 1,024 rows \(one batch\), got 99"),
        (SMALL, torch.ones(300, 3), InputError, "rows that differ"),
        (SMALL, torch.randn(300, 3, 2), InputError, r"rows \[row, d\], got rows of shape \[3, 2\]"),
        (SMALL, {"a": torch.ones(9, 3), "b": torch.ones(9, 3)}, InputError, "a stream of one site"),
    ],
)
def test_what_cannot_be_fitted_is_said(config, rows, error, words):
    with pytest.raises(error, match=words):
        config.fit(Stream.from_tensor(rows), progress=False)


def test_nan_rows_are_named():
    x = torch.randn(500, 4)
    x[123, 2] = torch.nan
    with pytest.raises(InputError, match=r"TopK at here: expected finite .* document 123"):
        SMALL.fit(Stream.from_tensor(x, site="here"), progress=False)


def test_widths_are_checked(small):
    sae, _ = small
    with pytest.raises(InputError, match=r"rows \[row, d\] with 16 columns, got \[5, 17\]"):
        sae.encode(torch.randn(5, 17))
    with pytest.raises(InputError, match=r"codes \[row, latent\] with 24 columns"):
        sae.decode(torch.randn(5, 17))


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="'k' to be int >= 1, got 0"):
        TopK(k=0)
    with pytest.raises(ConfigError, match="has no setting 'latent'"):
        TopK(latent=5)

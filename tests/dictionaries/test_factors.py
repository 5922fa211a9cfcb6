"""What all factorisations share: codes, edits, rows left out, and the file they are saved to."""

import pytest
import torch
from scipy.optimize import nnls

from jackfield.core.errors import EditError, InputError
from jackfield.dictionaries import ICA, NMF, PCA, SNMF, Dictionary, Factors, KMeans, fvu
from jackfield.dictionaries.factors import code_of, nonnegative_code
from jackfield.edits import Context
from jackfield.streams import Stream

HERE = Context("x")
METHODS = [
    PCA(latents=3),
    ICA(latents=3, passes=20),
    KMeans(latents=5),
    NMF(latents=3, passes=5),
    SNMF(latents=3, keep=0.5, rounds=20),
]


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: type(method).__name__)
def fitted(request, x):
    return request.param.fit(Stream.from_tensor(x, batch=50))


@pytest.fixture(scope="module")
def x():
    """Rows that are never negative, of odd scales."""
    draw = torch.Generator().manual_seed(1)
    return torch.rand(200, 8, generator=draw) * torch.arange(1.0, 9.0)


def test_directions_have_length_1(fitted):
    torch.testing.assert_close(fitted.directions.norm(dim=1), torch.ones(fitted.latents))


def test_only_a_signed_dictionary_has_negative_codes(fitted, x):
    assert bool((fitted.encode(x) < 0).any()) == fitted.signed


def test_the_figures_are_those_of_every_dictionary(fitted, x):
    measured = fitted.measure(Stream.from_tensor(x))
    assert fitted.figures["FVU"] == pytest.approx(fvu(x, fitted.reconstruct(x)), rel=1e-4)
    assert fitted.figures["L0"] == pytest.approx(measured.l0)
    expected = fitted.encode(x).square().mean(dim=0).sqrt()
    torch.testing.assert_close(fitted.sizes, expected, rtol=1e-4, atol=1e-5)


def test_splice_gives_the_reconstruction(fitted, x):
    (edit,) = fitted.edits(where="all")
    torch.testing.assert_close(edit.apply(x, HERE), fitted.reconstruct(x), rtol=1e-4, atol=1e-4)


def test_setting_a_latent_to_what_it_is_changes_no_bit(fitted, x):
    row = x[:1]
    latent = int(fitted.encode(row)[0].abs().argmax())
    (edit,) = fitted.clamp(latent, float(fitted.encode(row)[0, latent]), where="all")
    assert torch.equal(edit.apply(row, HERE), row)


def test_ablate_takes_off_the_latents_own_part_and_no_more(fitted, x):
    (edit,) = fitted.ablate([1], where="all")
    expected = x - fitted.encode(x)[:, [1]] @ fitted.directions[[1]]
    torch.testing.assert_close(edit.apply(x, HERE), expected, rtol=1e-4, atol=1e-4)


def test_saved_and_read_back_it_is_the_same(fitted, x, tmp_path):
    back = Dictionary.load(fitted.save(tmp_path / "factors"))
    assert isinstance(back, Factors)
    assert torch.equal(back.encode(x), fitted.encode(x))
    assert back.report().text == fitted.report().text


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_far_rows_are_left_out_and_pass_unchanged(method, x):
    with_sinks = torch.cat([x, 1e4 * x[:3]])
    robust = method.fit(Stream.from_tensor(with_sinks, batch=50))
    assert robust.inside(with_sinks).tolist() == [True] * 200 + [False] * 3
    assert robust.figures["rows"] == 200
    (edit,) = robust.edits(where="all")
    assert torch.equal(edit.apply(with_sinks, HERE)[200:], with_sinks[200:])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_refused_wherever_they_are(fitted, x, bad):
    method = METHODS[[type(each).__name__ for each in METHODS].index(fitted.name)]
    many = x.repeat(25, 1)
    many[4_900, 2] = bad  # past the first rows that are looked at
    with pytest.raises(InputError, match="position 0"):
        method.fit(Stream.from_tensor(many))


def test_equal_rows_and_rows_with_heads_are_refused():
    with pytest.raises(InputError, match="all equal"):
        PCA(latents=1).fit(Stream.from_tensor(torch.ones(9, 3)))
    with pytest.raises(InputError, match=r"\[row, d\]"):
        PCA(latents=1).fit(Stream.from_tensor(torch.ones(9, 3, 2)))


def test_an_unknown_rule_is_refused(x):
    with pytest.raises(EditError, match="expected 'linear', 'nearest' or 'nonnegative'"):
        code_of("odd", x, x, x)


def test_non_negative_codes_are_those_of_active_sets():
    """Against Lawson and Hanson's independent algorithm; some directions nearly coincide."""
    draw = torch.Generator().manual_seed(2)
    D = torch.randn(12, 8, generator=draw, dtype=torch.float64)
    D[1] = D[0] + 0.1 * D[1]
    x = torch.randn(20, 8, generator=draw, dtype=torch.float64)
    found = nonnegative_code(x, D)
    assert (found >= 0).all()
    for row, code in zip(x, found, strict=True):
        _, least = nnls(D.T.numpy(), row.numpy())
        assert float((row - code @ D).norm()) == pytest.approx(least, rel=1e-4)

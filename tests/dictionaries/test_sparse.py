"""The sparse products against dense ones, and their gradients against finite differences.

Every test runs twice: with the compiled kernels, and as on a machine that has none.
"""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.dictionaries import sparse
from jackfield.dictionaries.kernels import cpu
from jackfield.dictionaries.sparse import combine, dense, dots, scatter, top_k

ROWS, LATENTS, WIDTH, K = 5, 11, 7, 3


@pytest.fixture(params=["kernels", "plain"], autouse=True)
def where(request, monkeypatch):
    library = None
    if request.param == "kernels":
        library = next(iter(request.getfixturevalue("compiled").values()))
    monkeypatch.setattr(cpu, "library", lambda: library)
    return request.param


@pytest.fixture
def code():
    """values [row, k], latents [row, k], W [latent, d], x [row, d], in float64."""
    latents = torch.stack([torch.randperm(LATENTS)[:K] for _ in range(ROWS)])
    return (
        torch.randn(ROWS, K, dtype=torch.float64),
        latents,
        torch.randn(LATENTS, WIDTH, dtype=torch.float64),
        torch.randn(ROWS, WIDTH, dtype=torch.float64),
    )


def as_dense(values, latents):
    z = torch.zeros(ROWS, LATENTS, dtype=values.dtype)
    for row in range(ROWS):
        for value, latent in zip(values[row], latents[row], strict=True):
            z[row, latent] = value
    return z


def test_products_equal_dense_ones(code):
    values, latents, W, x = code
    z = as_dense(values, latents)
    assert torch.equal(dense(values, latents, LATENTS), z)
    torch.testing.assert_close(combine(values, latents, W), z @ W)
    torch.testing.assert_close(dots(x, latents, W), (x @ W.T).gather(1, latents))
    torch.testing.assert_close(scatter(values, latents, x, LATENTS), z.T @ x)


def test_products_take_views_that_are_not_contiguous(code):
    values, latents, W, x = code
    slanted = x.T.contiguous().T
    torch.testing.assert_close(dots(slanted, latents, W), dots(x, latents, W))
    torch.testing.assert_close(
        scatter(values, latents, slanted, LATENTS), scatter(values, latents, x, LATENTS)
    )


def test_combine_has_the_right_gradient(code):
    values, latents, W, _ = code
    values.requires_grad_()
    W.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: combine(v, latents, w), (values, W))


def test_top_k_is_the_k_largest_of_relu(code):
    _, _, encoder, x = code
    bias = torch.randn(LATENTS, dtype=torch.float64) - 4
    values, latents = top_k(x, encoder, bias, K)
    p = (x @ encoder.T + bias).relu()
    assert torch.equal(values.sort(descending=True).values, p.topk(K).values)
    assert torch.equal(p.gather(1, latents), values)
    assert (values == 0).any(), "the example should have rows with fewer than k above zero"


def test_top_k_has_the_right_gradient(code):
    _, _, encoder, x = code
    bias = torch.randn(LATENTS, dtype=torch.float64) - 4
    for tensor in (x, encoder, bias):
        tensor.requires_grad_()

    def codes(x, encoder, bias):
        return dense(*top_k(x, encoder, bias, K), LATENTS)

    assert torch.autograd.gradcheck(codes, (x, encoder, bias))


def test_no_gradient_through_a_chosen_latent_below_zero():
    """A peer's fused encoder lets it through."""
    x, encoder = torch.ones(1, 2), -torch.eye(2)
    encoder.requires_grad_()
    values, _ = top_k(x, encoder, torch.zeros(2), 1)
    values.sum().backward()
    assert encoder.grad is not None
    assert not encoder.grad.any()


def gradients(loss, *tensors):
    return torch.autograd.grad(loss(*tensors), tensors)


@pytest.mark.parametrize("k", [1, K, LATENTS])
def test_a_whole_step_has_the_gradients_of_a_dense_one(code, k):
    """Both matrices, the encoder's bias and the input, through the codes and past them."""
    _, _, encoder, x = code
    decoder, bias = torch.randn_like(encoder), torch.randn(LATENTS, dtype=torch.float64)
    weights = [each.requires_grad_() for each in (x, encoder, bias, decoder)]

    def by_mask(x, encoder, bias, decoder):
        p = (x @ encoder.T + bias).relu()
        kept = torch.zeros_like(p).scatter(1, p.topk(k).indices, 1.0)
        return (x - (p * kept) @ decoder).square().sum()

    def by_codes(x, encoder, bias, decoder):
        return (x - combine(*top_k(x, encoder, bias, k), decoder)).square().sum()

    for mine, other in zip(
        gradients(by_codes, *weights), gradients(by_mask, *weights), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_what_dead_latents_learn_has_the_right_gradient_in_the_encoder(code):
    """AuxK: the error of the living, explained by the k largest of the dead latents only."""
    _, _, encoder, x = code
    decoder, bias = torch.randn_like(encoder), torch.randn(LATENTS, dtype=torch.float64)
    missed, dead = torch.randn_like(x), torch.tensor([1, 4, 5, 9])

    def left(encoder, bias, decoder):
        values, latents = top_k(x, encoder[dead], bias[dead], 2)
        return (missed - combine(values, latents, decoder[dead])).square().sum()

    weights = [each.requires_grad_() for each in (encoder, bias, decoder)]
    assert torch.autograd.gradcheck(left, weights)
    for grad in gradients(left, *weights):
        reached = grad.reshape(LATENTS, -1).any(dim=1).nonzero().flatten().tolist()
        assert reached
        assert set(reached) <= set(dead.tolist())


def test_latents_chosen_twice_in_a_row_are_summed(code):
    values, _, W, x = code
    latents = torch.tensor([[2, 2, 7]]).expand(ROWS, K)
    z = torch.zeros(ROWS, LATENTS, dtype=torch.float64).scatter_add(1, latents, values)
    torch.testing.assert_close(combine(values, latents, W), z @ W)
    torch.testing.assert_close(scatter(values, latents, x, LATENTS), z.T @ x)
    values.requires_grad_()
    W.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: combine(v, latents, w), (values, W))


@pytest.mark.parametrize(("rows", "k"), [(0, 3), (4, 0), (0, 0)])
def test_nothing_chosen_is_nothing(rows, k):
    x, W, bias = torch.ones(rows, WIDTH), torch.ones(LATENTS, WIDTH), torch.ones(LATENTS)
    for tensor in (x, W, bias):
        tensor.requires_grad_()
    values, latents = top_k(x, W, bias, k)
    out = combine(values, latents, W)
    assert values.shape == latents.shape == (rows, k)
    assert torch.equal(out, torch.zeros(rows, WIDTH))
    assert dots(x, latents, W).shape == (rows, k)
    out.sum().backward()
    assert all(not tensor.grad.any() for tensor in (x, W, bias))


def test_gradients_that_are_not_contiguous(code):
    """A sum's gradient is one number expanded; a transposed one has other strides."""
    values, latents, W, _ = code
    given = values.requires_grad_(), W.requires_grad_()
    towards = torch.randn(WIDTH, ROWS, dtype=torch.float64).T
    for grad in (towards, torch.ones((), dtype=torch.float64).expand(ROWS, WIDTH)):
        out = combine(given[0], latents, given[1])
        slanted = torch.autograd.grad(out, given, grad, retain_graph=True)
        straight = torch.autograd.grad(out, given, grad.contiguous())
        assert all(map(torch.equal, slanted, straight))


def test_a_gradient_of_the_gradient_is_refused(code):
    values, latents, W, _ = code
    W.requires_grad_()
    (grad,) = torch.autograd.grad(combine(values, latents, W).square().sum(), W, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_latents_of_32_bits(code):
    values, latents, W, _ = code
    assert torch.equal(combine(values, latents.int(), W), combine(values, latents, W))


def test_many_rows_at_a_time_or_few(code, monkeypatch):
    _, _, encoder, x = code
    bias = torch.randn(LATENTS, dtype=torch.float64)
    values, latents = top_k(x, encoder, bias, K)
    monkeypatch.setattr(sparse, "_AT_ONCE", 1)
    monkeypatch.setattr(sparse, "_ROWS", 2)
    in_parts = top_k(x, encoder, bias, K)
    torch.testing.assert_close(in_parts[0], values)
    assert torch.equal(in_parts[1], latents)


@pytest.mark.parametrize("wrong", [-1, LATENTS])
def test_a_latent_that_is_not_there_is_refused(code, wrong):
    values, latents, W, x = code
    latents[3, 1] = wrong
    for product in (
        lambda: combine(values, latents, W),
        lambda: dots(x, latents, W),
        lambda: scatter(values, latents, x, LATENTS),
    ):
        with pytest.raises(InputError, match=f"expected from 0 to {LATENTS - 1}, got {wrong}"):
            product()


def test_shapes_that_do_not_fit_are_refused(code):
    values, latents, W, x = code
    for product in (
        lambda: combine(values[:, 1:], latents, W),
        lambda: combine(values.flatten(), latents.flatten(), W),
        lambda: combine(values, latents, W[0]),
        lambda: dots(x[1:], latents, W),
        lambda: dots(x[:, 1:], latents, W),
        lambda: scatter(values, latents, x[1:], LATENTS),
        lambda: scatter(values[1:], latents, x, LATENTS),
    ):
        with pytest.raises(InputError, match="expected"):
            product()


@pytest.mark.parametrize("k", [-1, LATENTS + 1])
def test_more_than_all_latents_are_refused(code, k):
    _, _, encoder, x = code
    with pytest.raises(InputError, match=f"expected k from 0 to the {LATENTS} latents, got {k}"):
        top_k(x, encoder, encoder.new_zeros(LATENTS), k)

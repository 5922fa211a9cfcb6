"""The sparse products against dense ones, and their gradients against finite differences."""

import pytest
import torch

from jackfield.dictionaries.sparse import combine, dense, dots, scatter, top_k

ROWS, LATENTS, WIDTH, K = 5, 11, 7, 3


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

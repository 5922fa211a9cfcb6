"""Ragged codes against dense ones, and their gradients against finite differences."""

import pytest
import torch

from jackfield.dictionaries.ragged import Ragged, batch_top

ROWS, LATENTS, WIDTH, ENTRIES = 5, 11, 7, 14


@pytest.fixture
def given():
    """x, encoder, bias, size and W, in float64."""
    draw = torch.Generator().manual_seed(1)
    shapes = (ROWS, WIDTH), (LATENTS, WIDTH), (LATENTS,), (LATENTS,), (LATENTS, 3)
    x, encoder, bias, size, W = (torch.randn(*s, generator=draw).double() for s in shapes)
    return x, encoder, bias, size.abs(), W


def test_the_largest_of_the_batch_are_chosen(given):
    x, encoder, bias, size, _ = given
    code = batch_top(x, encoder, bias, size, ENTRIES)
    p = (x @ encoder.T + bias).relu()
    edge = (p * size).flatten().sort(descending=True).values[ENTRIES - 1]
    torch.testing.assert_close(code.dense(), p * (p * size >= edge))
    assert len(code.values) == ENTRIES
    assert (code.rows.diff() >= 0).all()
    counts = torch.bincount(code.rows, minlength=ROWS)
    assert len(counts.unique()) > 1, "rows differ in how many they have"


def test_it_is_decoded_counted_and_looked_up_as_a_dense_code(given):
    x, encoder, bias, size, W = given
    code = batch_top(x, encoder, bias, size, ENTRIES)
    z = code.dense()
    torch.testing.assert_close(code.combine(W), z @ W)
    assert torch.equal(code.fired(), (z > 0).sum(dim=0))
    some = torch.tensor([3, 0, 9])
    assert torch.equal(code.of(some), z[:, some])
    only = z.clone()
    only[:, :2], only[:, 8:] = 0, 0
    assert torch.equal(code.part(2, 8).dense(), only)


def test_rows_without_entries_are_zero():
    nothing = Ragged(torch.ones(1), torch.tensor([1]), torch.tensor([2]), (3, 4))
    assert nothing.combine(torch.eye(4)).tolist() == [[0] * 4, [0, 0, 1, 0], [0] * 4]


def test_gradients(given):
    x, encoder, bias, size, W = given
    for tensor in (x, encoder, bias, W):
        tensor.requires_grad_()

    def decoded(x, encoder, bias, W):
        return batch_top(x, encoder, bias, size, ENTRIES).combine(W)

    assert torch.autograd.gradcheck(decoded, (x, encoder, bias, W))


def test_no_gradient_through_a_chosen_entry_below_zero():
    x, encoder = torch.ones(1, 2), -torch.eye(2)
    encoder.requires_grad_()
    code = batch_top(x, encoder, torch.zeros(2), torch.ones(2), 2)
    code.values.sum().backward()
    assert not encoder.grad.any()

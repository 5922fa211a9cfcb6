import pytest
import torch

from jackfield.core.errors import EditError
from jackfield.edits import Context, MeanOut, Replace, ResampleOut, ZeroOut

HERE = Context("x")


def test_zero_out_has_no_gradient_and_no_value():
    x = torch.randn(2, 3, 4, requires_grad=True)
    out = ZeroOut(at="x").apply(x, HERE)
    assert not out.any()
    assert not out.requires_grad


@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 3, 4), (2, 3, 4), ()], ids=str)
def test_replace_and_mean_out_put_the_value_everywhere(shape):
    value, x = torch.randn(shape), torch.randn(2, 3, 4)
    for edit in (Replace(value, at="x"), MeanOut(value, at="x")):
        out = edit.apply(x, HERE)
        assert torch.equal(out, value.expand(2, 3, 4))
        assert out.is_contiguous()


def test_replace_passes_the_gradient_to_the_value_alone():
    value, x = torch.randn(4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    Replace(value, at="x").apply(x, HERE).sum().backward()
    assert torch.equal(value.grad, torch.full((4,), 6.0))
    assert x.grad is None


def test_replace_takes_the_dtype_of_the_site():
    out = Replace(torch.ones(4, dtype=torch.float64), at="x").apply(torch.zeros(2, 4).half(), HERE)
    assert out.dtype == torch.float16


class TestResampleOut:
    rows = torch.arange(40.0).reshape(10, 4)
    x = torch.zeros(3, 50, 4)

    def test_each_token_becomes_one_of_the_rows_independently(self):
        out = ResampleOut(self.rows, at="x").apply(self.x, HERE).reshape(-1, 4)
        drawn = (out[:, 0] / 4).long()
        assert torch.equal(out, self.rows[drawn])
        assert set(drawn.tolist()) == set(range(10))  # each missed with a chance below 1e-5

    def test_the_seed_decides(self):
        draws = [
            ResampleOut(self.rows, seed=seed, at="x").apply(self.x, Context("x"))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    def test_it_goes_on_within_a_sequence(self):
        edit, place = ResampleOut(self.rows, at="x"), Context("x")
        assert not torch.equal(edit.apply(self.x, place), edit.apply(self.x, place))

    @pytest.mark.parametrize("shape", [(10, 3), (0, 4), (4,), (2, 2, 4)], ids=str)
    def test_rows_of_another_shape_are_refused(self, shape):
        with pytest.raises(EditError, match=r"x, ResampleOut: expected rows \[row, 4\]"):
            ResampleOut(torch.zeros(shape), at="x").apply(self.x, HERE)

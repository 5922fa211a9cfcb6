import numpy as np
import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.streams import Quantiles, Stream

SHARES = (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)


def test_they_are_those_of_the_whole_array():
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 50, 9])
    found = Stream.from_tensor(x, batch=77).into(Quantiles("x", SHARES)).values
    truth = torch.from_numpy(np.quantile(x.double().numpy(), SHARES, axis=0))
    spread = (x.max(0).values - x.min(0).values).double()
    # Between two neighbours of a tail there may lie more than a cell.
    assert ((found - truth).abs() / spread).max() < 2e-3


def test_batches_and_order_make_no_difference():
    x = torch.randn(900, 2)
    one = Stream.from_tensor(x, batch=900).into(Quantiles("x", SHARES)).values
    other = Stream.from_tensor(x.flip(0), batch=13).into(Quantiles("x", SHARES)).values
    assert torch.equal(one, other)


@pytest.mark.parametrize("shares", [(), (0.5, 1.2), (-0.1,)])
def test_shares_that_are_none(shares):
    with pytest.raises(InputError, match="shares from 0 to 1"):
        Quantiles("x", shares)

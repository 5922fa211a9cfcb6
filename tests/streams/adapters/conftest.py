"""A store with every kind of thing that a format has to carry."""

import pytest
import torch

from jackfield.core.errors import JackfieldWarning
from jackfield.streams import Stream

ROWS = 60


@pytest.fixture(scope="session")
def truth():
    """60 rows: sites of 0, 1 and 2 axes, in float32, bfloat16 and int64; tokens, columns."""
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(ROWS)
    arrays = {
        "layers.3.resid_post": torch.randn(ROWS, 4, generator=generator),
        "layers.5.z[head=3]": torch.randn(ROWS, 2, 3, generator=generator).bfloat16(),
        "choice": torch.randint(0, 9, (ROWS,), generator=generator),
    }
    arrays["layers.3.resid_post"][7, 2] = float("nan")
    arrays["layers.3.resid_post"][8, 1] = float("-inf")
    columns = {"weight": torch.rand(ROWS, generator=generator), "late": number > 30}
    return Stream.from_tensor(
        arrays,
        batch=11,
        tokens=number + 7,
        documents=number // 9 + 100,
        positions=number % 9,
        columns=columns,
    )


@pytest.fixture
def store(truth, tmp_path):
    with pytest.warns(JackfieldWarning, match="2 rows hold NaN or Inf"):
        return truth.write(tmp_path / "acts", commit_rows=25)

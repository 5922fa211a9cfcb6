"""A battery must make examples and measure the model on them."""

import pytest

from jackfield.core.battery import Battery


@pytest.mark.parametrize("missing", ["examples", "measure"])
def test_a_battery_that_lacks_a_part_cannot_be_made(missing):
    parts = {"examples", "measure"} - {missing}
    half = type("Half", (Battery,), {name: lambda self: None for name in parts})
    with pytest.raises(TypeError, match=missing):
        half()

import json

import pytest

from jackfield.core.errors import MissingExtraError
from jackfield.core.extras import need


def test_what_is_there_is_imported():
    assert need("json", extra="all", purpose="This test") is json


def test_what_is_missing_comes_with_its_command():
    with pytest.raises(MissingExtraError) as caught:
        need("no_such_package.part", extra="plots", purpose="A figure")
    assert str(caught.value) == (
        "A figure needs no_such_package, which is not installed. "
        "Run: pip install 'jackfield[plots]'"
    )

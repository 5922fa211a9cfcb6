"""Every entry of the catalogue does what all entries of its kind do."""

import pytest

from jackfield.catalogue.records import RECORDS
from jackfield.testing import checks_for, judge
from jackfield.testing.examples import EXAMPLES, KNOWN_FAILURES

BY_NAME = {record.name: record for record in RECORDS}
CASES = [
    pytest.param(name, check, function, id=f"{name}-{check}")
    for name, example in EXAMPLES.items()
    for check, function in checks_for(BY_NAME[name], example).items()
]


def test_every_entry_has_an_example():
    assert set(EXAMPLES) == set(BY_NAME)


def test_known_failures_are_of_checks_that_are_run():
    assert set(KNOWN_FAILURES) <= {case.values[:2] for case in CASES}


@pytest.mark.parametrize(("name", "check", "function"), CASES)
def test_conformance(name, check, function):
    result = judge(check, function, KNOWN_FAILURES.get((name, check)))
    assert result.status != "failed", result.message

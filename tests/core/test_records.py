import dataclasses
import subprocess
import sys

import pytest

from jackfield.core.records import Record
from jackfield.core.where import Where


@pytest.fixture
def record():
    return Record(
        name="where",
        kind="part",
        summary="Which tokens.",
        chapter="core",
        target="jackfield.core.where:Where",
        paper="none",
    )


def test_a_record_loads_the_class_that_it_names(record):
    assert record.load() is Where


def test_a_record_is_frozen_and_can_be_in_a_set(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"
    assert record in {record}
    assert dataclasses.replace(record, name="other") not in {record}


def test_making_a_record_imports_nothing_of_its_target():
    code = (
        "import sys; from jackfield.core.records import Record;"
        "Record(name='x', kind='part', summary='', chapter='', paper='',"
        "target='jackfield.edits.base:Edit');"
        "print('jackfield.edits' in sys.modules, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]

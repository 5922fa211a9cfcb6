"""Our own records: what they name is there, and importing them costs nothing."""

import subprocess
import sys
from typing import get_args

import pytest

from jackfield.catalogue.records import RECORDS
from jackfield.core.battery import Battery
from jackfield.core.fitted import Method
from jackfield.core.records import Kind
from jackfield.core.study import Study

NEEDS = {"labels", "pairs", "gradients", "text", "model", "stream"}
BASES = {"method": Method, "study": Study, "battery": Battery}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_names_what_is_there(record):
    target = record.load()
    assert issubclass(target, BASES.get(record.kind, object))
    assert record.kind in get_args(Kind)
    assert record.needs <= NEEDS
    assert record.cost
    assert record.summary.endswith((".", "?"))
    assert len(record.summary) < 90


def test_names_are_unique():
    assert len({record.name for record in RECORDS}) == len(RECORDS)


def test_every_chapter_of_the_first_seven_has_an_entry():
    chapters = {record.chapter for record in RECORDS}
    assert chapters == set(
        "lenses dictionaries circuits steering sparsity functions memory".split()
    )


def test_listing_the_catalogue_imports_no_chapter():
    code = (
        "import sys; from jackfield.catalogue import records; records(); "
        "print(*(m for m in sys.modules if m == 'torch' or m.startswith('jackfield.')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in ran.stdout.split() if "." in name}
    assert rooms == {"catalogue", "core"}
    assert "torch" not in ran.stdout.split()

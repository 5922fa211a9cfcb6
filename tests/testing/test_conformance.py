"""The runner: outcomes, and known failures that are strict."""

from jackfield.catalogue import find
from jackfield.testing import PartExample, judge, run
from jackfield.testing.claims import claim


def fails() -> None:
    claim(False, "it is broken")


def breaks() -> None:
    raise KeyError("x")


def test_outcomes_say_what_happened():
    assert judge("a", lambda: None).status == "passed"
    assert (judge("a", fails).status, judge("a", fails).message) == ("failed", "it is broken")
    assert judge("a", breaks).message == "KeyError: 'x'"


def test_a_known_failure_is_told_with_its_reason():
    found = judge("a", fails, known="waits for 3")
    assert (found.status, found.message) == ("known failure", "waits for 3 (it is broken)")


def test_a_known_failure_that_passes_is_a_failure():
    found = judge("a", lambda: None, known="waits for 3")
    assert found.status == "failed"
    assert "passes, but is listed as a known failure: waits for 3" in found.message


def test_run_judges_every_check_and_no_known_failure_is_forgotten():
    from jackfield.functions import SELU

    known = {
        ("selu", "part_passes_gradcheck"): "a reason",
        ("selu", "no_such_check"): "a reason",
        ("other", "part_keeps_dtype"): "of another entry",
    }
    results = {each.check: each for each in run(find("selu"), PartExample(make=SELU), known=known)}
    failed = {name for name, each in results.items() if each.status == "failed"}
    assert failed == {"part_passes_gradcheck", "no_such_check"}
    assert "there is no such check" in results["no_such_check"].message
    assert results["part_keeps_dtype"].status == "passed"

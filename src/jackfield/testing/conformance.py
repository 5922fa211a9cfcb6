"""The suite: which checks an entry must pass, and running them.

    for result in run(record, example):
        print(result.check, result.status, result.message)

Or as tests of their own, so that a runner names each:

    @pytest.mark.parametrize("check", checks_for(record, example).items(), ids=lambda c: c[0])
    def test_conformance(check): check[1]()
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from jackfield.core.errors import ConfigError, explain
from jackfield.core.records import Record
from jackfield.testing import common_checks as common
from jackfield.testing.battery_checks import BATTERY_CHECKS
from jackfield.testing.claims import ConformanceError
from jackfield.testing.example import (
    BatteryExample,
    Example,
    MethodExample,
    PartExample,
    SavingExample,
    StudyExample,
)
from jackfield.testing.method_checks import (
    METHOD_CHECKS,
    gradient_flows_through_edits,
    streaming_fit_equals_whole_fit,
)
from jackfield.testing.part_checks import PART_CHECKS, SAVING_CHECKS
from jackfield.testing.study_checks import STUDY_CHECKS

Check = Callable[[Record, Any], None]
Status = Literal["passed", "failed", "known failure"]

_EVERY: tuple[Check, ...] = (
    common.docstring_has_source_shapes_and_example,
    common.record_matches_its_target,
)
_CONFIG: tuple[Check, ...] = (
    common.config_survives_json,
    common.config_is_frozen,
    common.constructor_does_no_work,
)
_OF: dict[type[Example], tuple[str, tuple[Check, ...]]] = {
    MethodExample: ("method", (*_EVERY, *_CONFIG, *METHOD_CHECKS)),
    StudyExample: ("study", (*_EVERY, *_CONFIG, *STUDY_CHECKS)),
    BatteryExample: ("battery", (*_EVERY, *_CONFIG, *BATTERY_CHECKS)),
    PartExample: ("part", (*_EVERY, *PART_CHECKS)),
    SavingExample: ("part", (*_EVERY, *_CONFIG, *SAVING_CHECKS)),
}


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        check: its name.
        status: "passed", "failed" or "known failure".
        message: what went wrong; of a known failure, its reason too.
    """

    check: str
    status: Status
    message: str = ""


def checks_for(record: Record, example: Example) -> dict[str, Callable[[], None]]:
    """The checks of an entry by name, chosen by its kind and tags; each raises if it fails.

    Raises:
        ConfigError: the example is of another kind than the record.
    """
    kind, checks = _OF.get(type(example), ("unknown", ()))
    if kind != record.kind:
        wanted = " or ".join(cls.__name__ for cls, (of, _) in _OF.items() if of == record.kind)
        got = type(example).__name__
        raise ConfigError(explain(where=f"example of {record.name}", expected=wanted, got=got))
    chosen = (*checks, *_tagged(record, example))
    return {check.__name__: partial(check, record, example) for check in chosen}


def run(
    record: Record, example: Example, *, known: Mapping[tuple[str, str], str] | None = None
) -> list[CheckResult]:
    """Runs all checks of an entry.

    Args:
        record: the entry.
        example: how to exercise it.
        known: (record name, check) → why it fails. Strict: if it passes after all, or there is no
            such check, that is a failure.
    """
    reasons = {check: why for (name, check), why in (known or {}).items() if name == record.name}
    checks = checks_for(record, example)
    absent = [CheckResult(name, "failed", _NO_CHECK) for name in reasons if name not in checks]
    return [judge(name, check, reasons.get(name)) for name, check in checks.items()] + absent


def judge(name: str, check: Callable[[], None], known: str | None = None) -> CheckResult:
    """Runs one check; `known` is the reason why it is expected to fail."""
    try:
        check()
    except Exception as error:  # whatever an entry does wrong is what is reported
        kind = "" if isinstance(error, ConformanceError) else f"{type(error).__name__}: "
        message = f"{kind}{error}"
        if known is None:
            return CheckResult(name, "failed", message)
        return CheckResult(name, "known failure", f"{known} ({message})")
    if known is None:
        return CheckResult(name, "passed")
    return CheckResult(name, "failed", f"passes, but is listed as a known failure: {known}")


_NO_CHECK = "listed as a known failure, but there is no such check for this entry"


def _tagged(record: Record, example: Example) -> list[Check]:
    """The checks that an entry's tags ask for."""
    if not isinstance(example, MethodExample):
        return []
    chosen: list[Check] = [streaming_fit_equals_whole_fit] if record.streaming else []
    return [*chosen, gradient_flows_through_edits] if example.differentiable else chosen

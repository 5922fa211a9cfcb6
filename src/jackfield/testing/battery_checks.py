"""Checks of a battery: a config that makes examples, and measures a model on them."""

from collections.abc import Callable
from typing import Any

from jackfield.core.records import Record
from jackfield.testing.claims import (
    as_json,
    chance,
    claim,
    fields_of,
    report_of,
    same,
    traces,
    untouched,
)
from jackfield.testing.example import BatteryExample

_COUNT = 6


def same_seed_gives_same_examples(record: Record, example: BatteryExample) -> None:
    """A seed decides the examples, whatever the global random numbers are; another gives others."""
    model = example.model()
    found = []
    for number in (1, 2):
        with chance(number):
            found.append(list(example.make().examples(model, _COUNT, seed=3)))
    same(found[0], found[1], "the examples of a seed")
    other = list(example.make().examples(model, _COUNT, seed=4))
    claim(other != found[0], "another seed gives the same examples")


def examples_are_well_formed(record: Record, example: BatteryExample) -> None:
    """As many as asked: frozen, of one class, plain data, no text empty, not all the same."""
    found = list(example.make().examples(example.model(), _COUNT))
    claim(len(found) == _COUNT, f"asked for {_COUNT} examples, got {len(found)}")
    for each in found:
        settings = getattr(each, "__dataclass_params__", None)
        claim(
            settings is not None and settings.frozen,
            f"{type(each).__name__} is not a frozen dataclass",
        )
        held = fields_of(each)
        same(_listed(held), as_json(held), "an example as JSON")
        empty = [name for name, value in held.items() if isinstance(value, str) and not value]
        claim(not empty, f"empty text in {', '.join(empty)}")
    claim(len({type(each) for each in found}) == 1, "examples of several classes")
    claim(len({repr(each) for each in found}) > 1, "all examples are the same")


def measure_reports_plain_data(record: Record, example: BatteryExample) -> None:
    """`measure` gives a result whose report is the same after JSON, and leaves the model alone."""
    model, battery = example.model(), example.make()
    before = traces(model.module)
    report_of(battery.measure(model, battery.examples(model, _COUNT)))
    untouched(before, model.module, "after measuring")


BATTERY_CHECKS: tuple[Callable[[Record, Any], None], ...] = (
    same_seed_gives_same_examples,
    examples_are_well_formed,
    measure_reports_plain_data,
)


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else value

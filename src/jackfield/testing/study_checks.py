"""Checks of a study: config → run → a result that reports."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from jackfield.core.config import to_json
from jackfield.core.records import Record
from jackfield.core.study import Result
from jackfield.testing.claims import (
    as_json,
    chance,
    claim,
    fields_of,
    refuses,
    report_of,
    same,
    traces,
    untouched,
)
from jackfield.testing.example import StudyExample
from jackfield.testing.worlds import World


def run_changes_neither_config_nor_model(record: Record, example: StudyExample) -> None:
    """After a run the config says what it said, every weight has its bits, and no hook is left."""
    study, world = example.make(), example.world(torch.float32)
    config, shown = as_json(to_json(study)), repr(study)
    weights = {name: each.clone() for name, each in world.model.module.state_dict().items()}
    before = traces(world.model.module)
    result = example.run(study, world)
    claim(isinstance(result, Result), f"run() gives a {type(result).__name__}, not a Result")
    same(config, as_json(to_json(study)), "the config")
    same(shown, repr(study), "the config's repr")
    same(weights, dict(world.model.module.state_dict()), "the weights")
    untouched(before, world.model.module, "after the run")


def same_seed_gives_same_result(record: Record, example: StudyExample) -> None:
    """Two runs are equal bit for bit, whatever the global random numbers are."""
    found = []
    for seed in (1, 2):
        with chance(seed):
            result = example.run(example.make(), example.world(torch.float32))
        found.append(fields_of(result, leave_out=example.varying))
    same(found[0], found[1], "two runs")


def low_precision_models_run(record: Record, example: StudyExample) -> None:
    """A bfloat16 model gives a result of the same shape, and a report."""
    results = [
        example.run(example.make(), example.world(d)) for d in (torch.float32, torch.bfloat16)
    ]
    left, right = (fields_of(each, leave_out=example.varying) for each in results)
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            same(list(value.shape), list(right[name].shape), f"the shape of {name}")
    report_of(results[1])


def non_contiguous_input_gives_same_result(record: Record, example: StudyExample) -> None:
    """Texts that are spread in memory give the same result."""
    world = example.world(torch.float32)
    results = [example.run(example.make(), each) for each in (world, world.spread())]
    left, right = (fields_of(each, leave_out=example.varying) for each in results)
    same(left, right, "the result")


def result_reports_plain_data(record: Record, example: StudyExample) -> None:
    """`report()` gives a Report with a sentence and blocks, the same after JSON."""
    report_of(example.run(example.make(), example.world(torch.float32)))


def study_refuses_empty_data(record: Record, example: StudyExample) -> None:
    """A run on no texts raises our error, which names the study or the model."""
    world = example.world(torch.float32).emptied()
    refuses(lambda: example.run(example.make(), world), _names(example, world), "no texts")


def study_refuses_nan(record: Record, example: StudyExample) -> None:
    """A run on a model that gives NaN raises our error, which names where."""
    world = example.world(torch.float32).poisoned()
    refuses(lambda: example.run(example.make(), world), _names(example, world), "NaN")


def study_refuses_what_the_example_lists(record: Record, example: StudyExample) -> None:
    """Each call in the example's `refused` raises our error, which names where."""
    world = example.world(torch.float32)
    for what, call in example.refused.items():
        refuses(partial(call, world), _names(example, world), what)


STUDY_CHECKS: tuple[Callable[[Record, Any], None], ...] = (
    run_changes_neither_config_nor_model,
    same_seed_gives_same_result,
    low_precision_models_run,
    non_contiguous_input_gives_same_result,
    result_reports_plain_data,
    study_refuses_empty_data,
    study_refuses_nan,
    study_refuses_what_the_example_lists,
)


def _names(example: StudyExample, world: World) -> tuple[str, ...]:
    return (type(example.make()).__name__, world.model.name, "layers.")

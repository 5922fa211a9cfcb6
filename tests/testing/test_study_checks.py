"""Each check of a study and of a battery fails on one that is broken in its way."""

import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jackfield.core.battery import Battery
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.records import Record
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.testing import BatteryExample, StudyExample, World, checks_for, judge, tiny_llama

# A good study -------------------------------------------------------------------------------


@config
class Lengths(Study):
    """How long the residual stream is at each token, [text, position] (arXiv 1234.56789).

    >>> Lengths(layer=1)
    Lengths(layer=1)
    """

    layer: int = setting(default=1, ge=0)

    def run(self, model: Any, tokens: Tensor) -> "Measured":
        site = f"layers.{self.layer}.resid_post"
        x = model.run(tokens, sites=[site], logits=False)[site]
        if not x.isfinite().all():
            raise InputError(explain(where=site, expected="finite activations", got="NaN"))
        return Measured(x.norm(dim=-1))


@dataclass(frozen=True, eq=False)
class Measured(Result):
    lengths: Tensor

    def report(self) -> Any:
        table = Table(["text", "mean"], [[i, float(x.mean())] for i, x in enumerate(self.lengths)])
        return Report("Lengths", [table], summary="How long it is.")


def run(study: Any, world: World) -> Measured:
    return study.run(world.model, world.tokens)


STUDY = StudyExample(
    make=Lengths,
    run=run,
    refused={"layer": lambda world: Lengths(layer=9).run(world.model, world.tokens)},
)
STUDY_RECORD = Record(
    name="lengths",
    kind="study",
    summary="How long?",
    chapter="lenses",
    target=f"{__name__}:Lengths",
    paper="Nobody 2012",
    arxiv="1234.56789",
)


class Mute(Measured):
    def report(self) -> Any:
        return {"lengths": self.lengths.tolist()}


class Empty(Measured):
    def report(self) -> Any:
        return Report("Lengths", [], summary="Nothing to see.")


def changing_config(study: Any, world: World) -> Measured:
    found = run(study, world)
    object.__setattr__(study, "layer", 2)
    return found


def leaving_a_hook(study: Any, world: World) -> Measured:
    world.model.module.register_forward_pre_hook(lambda *_: None)
    return run(study, world)


def drawing_global_numbers(study: Any, world: World) -> Measured:
    found = run(study, world)
    return replace(found, lengths=found.lengths + torch.rand(()))


def float32_only(study: Any, world: World) -> Measured:
    found = run(study, world)
    torch.ones(3) @ found.lengths[0, :3]
    return found


def reading_memory(study: Any, world: World) -> Measured:
    return study.run(world.model, world.tokens.as_strided((2, 12), (12, 1)))


def nothing_for_nothing(study: Any, world: World) -> Measured:
    return run(study, world) if len(world.tokens) else Measured(torch.zeros(0, 1))


def numbers_for_nan(study: Any, world: World) -> Measured:
    x = world.model.run(world.tokens, sites=["embed"], logits=False)["embed"]
    return Measured(x.norm(dim=-1))


def running(change: Any) -> StudyExample:
    return replace(STUDY, run=change)


def with_class(cls: type) -> StudyExample:
    return running(lambda study, world: cls(run(study, world).lengths))


BROKEN_STUDY = {
    "sets a setting": ("run_changes_neither_config_nor_model", running(changing_config)),
    "leaves a hook": ("run_changes_neither_config_nor_model", running(leaving_a_hook)),
    "gives a dict": (
        "run_changes_neither_config_nor_model",
        running(lambda study, world: vars(run(study, world))),
    ),
    "global random numbers": ("same_seed_gives_same_result", running(drawing_global_numbers)),
    "float32 only": ("low_precision_models_run", running(float32_only)),
    "reads memory": ("non_contiguous_input_gives_same_result", running(reading_memory)),
    "report is a dict": ("result_reports_plain_data", with_class(Mute)),
    "report is empty": ("result_reports_plain_data", with_class(Empty)),
    "no texts will do": ("study_refuses_empty_data", running(nothing_for_nothing)),
    "NaN will do": ("study_refuses_nan", running(numbers_for_nan)),
    "not refused": (
        "study_refuses_what_the_example_lists",
        replace(STUDY, refused={"one": lambda world: run(Lengths(layer=0), world)}),
    ),
}  # fmt: skip


# A good battery -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    """A sum to do, as text [position]."""

    question: str
    answer: str


@config
class Sums(Battery):
    """Sums of two numbers (arXiv 1234.56789).

    >>> Sums(largest=5)
    Sums(largest=5)
    """

    largest: int = setting(default=9, ge=1)

    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        draw = random.Random(seed)
        pairs = [(draw.randint(1, self.largest), draw.randint(1, self.largest)) for _ in range(n)]
        return [Sum(f"{a} + {b} =", f" {a + b}") for a, b in pairs]

    def measure(self, model: Any, examples: Any) -> Any:
        model.run(torch.ones(1, 3, dtype=torch.int64))
        return Measured(torch.ones(len(examples), 1))


class Careless(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return [Sum(f"{random.randint(1, 9)} + 1", "?") for _ in range(n)]


class Stubborn(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return super().examples(model, n, seed=0)


class Short(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return super().examples(model, n - 1, seed)


class Bare(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return [vars(each) for each in super().examples(model, n, seed)]


class Silent(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return [replace(each, question="") for each in super().examples(model, n, seed)]


class Endless(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        return [Sum("1 + 1 =", " 2")] * n


class Tensors(Sums):
    def examples(self, model: Any, n: int, seed: int = 0) -> list[Any]:
        found = super().examples(model, n, seed)
        return [replace(each, answer=torch.ones(1)) for each in found]


class Hooking(Sums):
    def measure(self, model: Any, examples: Any) -> Any:
        model.module.register_forward_hook(lambda *_: None)
        return super().measure(model, examples)


class Unreported(Sums):
    def measure(self, model: Any, examples: Any) -> Any:
        return Mute(super().measure(model, examples).lengths)


BATTERY = BatteryExample(make=Sums, model=tiny_llama)
BATTERY_RECORD = replace(STUDY_RECORD, name="sums", kind="battery", target=f"{__name__}:Sums")
BROKEN_BATTERY = {
    Careless: "same_seed_gives_same_examples",
    Stubborn: "same_seed_gives_same_examples",
    Short: "examples_are_well_formed",
    Bare: "examples_are_well_formed",
    Silent: "examples_are_well_formed",
    Endless: "examples_are_well_formed",
    Tensors: "examples_are_well_formed",
    Hooking: "measure_reports_plain_data",
    Unreported: "measure_reports_plain_data",
}
GOOD = {**checks_for(STUDY_RECORD, STUDY)}
GOOD_BATTERY = {**checks_for(BATTERY_RECORD, BATTERY)}


@pytest.mark.parametrize("check", GOOD)
def test_a_good_study_passes(check):
    result = judge(check, GOOD[check])
    assert result.status == "passed", result.message


@pytest.mark.parametrize("check", GOOD_BATTERY)
def test_a_good_battery_passes(check):
    result = judge(check, GOOD_BATTERY[check])
    assert result.status == "passed", result.message


@pytest.mark.parametrize("fault", BROKEN_STUDY)
def test_a_broken_study_is_caught(fault):
    check, example = BROKEN_STUDY[fault]
    assert judge(check, checks_for(STUDY_RECORD, example)[check]).status == "failed"


@pytest.mark.parametrize("broken", BROKEN_BATTERY)
def test_a_broken_battery_is_caught(broken):
    check = BROKEN_BATTERY[broken]
    example = BatteryExample(make=broken, model=tiny_llama)
    assert judge(check, checks_for(BATTERY_RECORD, example)[check]).status == "failed"


def test_every_check_is_shown_failing():
    shared = set(GOOD) & set(GOOD_BATTERY)
    assert {check for check, _ in BROKEN_STUDY.values()} == set(GOOD) - shared
    assert set(BROKEN_BATTERY.values()) == set(GOOD_BATTERY) - shared


def test_fields_that_vary_may_be_left_out():
    example = replace(running(drawing_global_numbers), varying=("lengths",))
    check = checks_for(STUDY_RECORD, example)["same_seed_gives_same_result"]
    assert judge("same_seed_gives_same_result", check).status == "passed"

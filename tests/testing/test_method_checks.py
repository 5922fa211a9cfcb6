"""Each check of a method fails on a method that is broken in its way, and passes on a good one."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.fitted import Fitted, Method
from jackfield.core.records import Record
from jackfield.edits import Add, Context, Edit
from jackfield.reports import Report, Table
from jackfield.streams import Moments, Stream
from jackfield.testing import MethodExample, World, checks_for, judge


@config
class Centre(Method):
    """Takes the mean of the rows [row, d] away (arXiv 1234.56789).

    >>> Centre(strength=0.5)
    Centre(strength=0.5)
    """

    strength: float = setting(default=1.0, ge=0)

    def fit(self, stream: Stream) -> "Centred":
        site = stream.sites[0]
        mean = stream.into(Moments(site)).mean.float()
        if not mean.isfinite().all():
            raise InputError(explain(where=site, expected="finite rows", got="NaN"))
        return Centred(mean, site, self.strength)


@dataclass(frozen=True, eq=False)
class Centred(Fitted):
    mean: Tensor
    site: str
    strength: float

    def edits(self, where: Any = "all") -> list[Edit]:
        return [Add(self.mean, at=self.site, where=where, strength=-self.strength)]

    def report(self) -> Any:
        return Report("Centre", [Table(["site"], [[self.site]])], summary="The mean is gone.")

    def state(self) -> Any:
        return {"strength": self.strength}, {"mean": self.mean}, {"site": self.site}

    @classmethod
    def from_state(cls, config: Any, tensors: Any, extra: Any) -> "Centred":
        return cls(tensors["mean"], extra["site"], config["strength"])


def fit(method: Any, world: World) -> Centred:
    return method.fit(world.stream())


EXAMPLE = MethodExample(
    make=Centre,
    fit=fit,
    identity=lambda method, world: fit(Centre(strength=0.0), world).edits(),
    refused={"below zero": lambda world: Centre(strength=-1.0)},
)
RECORD = Record(
    name="centre",
    kind="method",
    summary="Takes the mean away.",
    chapter="steering",
    target=f"{__name__}:Centre",
    paper="Nobody 2012",
    arxiv="1234.56789",
    streaming=True,
)
CHECKS = checks_for(RECORD, EXAMPLE)


# What is broken, one way each ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bent(Edit):
    """An edit that does whatever `how` does, on every site that it is given."""

    how: Any = field(default=None, kw_only=True)

    def apply(self, x: Tensor, context: Context) -> Tensor:
        return self.how(x, context)


def bending(how: Any, at: str = "layers.1.resid_post") -> MethodExample:
    return replace(EXAMPLE, edits=lambda fitted: [Bent(how=how, at=at)])


def making(make: Any) -> MethodExample:
    return replace(EXAMPLE, make=make)


def fitting(change: Any) -> MethodExample:
    return replace(EXAMPLE, fit=change)


@config
class Listed(Method):
    """A setting that JSON and repr do not bring back."""

    thing: Any = None

    def fit(self) -> Any: ...


class Anonymous(Method):
    def fit(self) -> Any: ...


@dataclass(kw_only=True)
class Loose(Method):
    strength: float = 1.0

    def fit(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Busy(Method):
    strength: float = 1.0

    def __post_init__(self) -> None:
        torch.zeros(3)

    def fit(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Hoarding(Method):
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", {})

    def fit(self) -> Any: ...


class Forgetful(Centred):
    @classmethod
    def from_state(cls, config: Any, tensors: Any, extra: Any) -> "Centred":
        return cls(tensors["mean"], extra["site"], 1.0 + config["strength"])


class Pickling(Centred):
    def save(self, path: Any) -> Path:
        folder = super().save(path)
        torch.save(self.mean, folder / "mean.pt")
        return folder


class Mute(Centred):
    def report(self) -> Any:
        return "The mean is gone."


def as_class(cls: type) -> Any:
    """A fit whose result is of another class."""

    def changed(method: Any, world: World) -> Any:
        good = fit(method, world)
        return cls(good.mean, good.site, good.strength)

    return changed


def changing_config(method: Any, world: World) -> Any:
    found = fit(method, world)
    object.__setattr__(method, "strength", 2.0)
    return found


def changing_weights(method: Any, world: World) -> Any:
    with torch.no_grad():
        next(world.model.module.parameters()).add_(1e-3)
    return fit(method, world)


def leaving_a_hook(method: Any, world: World) -> Any:
    world.model.module.register_forward_hook(lambda *_: None)
    return fit(method, world)


def drawing_global_numbers(method: Any, world: World) -> Any:
    found = fit(method, world)
    return replace(found, mean=found.mean + torch.randn_like(found.mean))


def last_batch_only(method: Any, world: World) -> Any:
    *_, last = world.stream()
    return Centred(last[world.site].mean(dim=0), world.site, 1.0)


def reading_memory(method: Any, world: World) -> Any:
    rows = next(iter(world.stream()))[world.site]
    return Centred(rows.as_strided((4, 32), (32, 1)).mean(dim=0), world.site, 1.0)


def zeros_for_nothing(method: Any, world: World) -> Any:
    try:
        return fit(method, world)
    except InputError:
        return Centred(torch.zeros(32), world.site, 1.0)


def plain_errors(method: Any, world: World) -> Any:
    try:
        return fit(method, world)
    except InputError as error:
        raise ValueError("no rows") from error


def nameless_errors(method: Any, world: World) -> Any:
    try:
        return fit(method, world)
    except InputError as error:
        raise InputError("something is wrong") from error


def shifted(x: Tensor) -> Tensor:
    return x + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)


def cut_to_width(x: Tensor, context: Context) -> Tensor:
    return x + torch.ones(999, dtype=x.dtype)[: x.shape[-1]].cumsum(0) / 10


def in_place(x: Tensor, context: Context) -> Tensor:
    return x.mul_(2.0)


def hooking(world: World) -> Any:
    """An edit that leaves a hook on the model, whether the forward ends or not."""

    def how(x: Tensor, context: Context) -> Tensor:
        world.model.module.lm_head.register_forward_hook(lambda *_: None)
        return shifted(x)

    return how


def hooking_until_the_end(world: World) -> Any:
    """An edit whose hook goes away at the end of the forward, if there is one."""

    def how(x: Tensor, context: Context) -> Tensor:
        handle = world.model.module.lm_head.register_forward_hook(lambda *_: handle.remove())
        return shifted(x)

    return how


def on_the_model(make_how: Any) -> MethodExample:
    """An example whose edit knows the model that it was fitted on."""
    kept: list[World] = []

    def remembering(method: Any, world: World) -> Any:
        kept.append(world)
        return fit(method, world)

    def edits(fitted: Any) -> list[Edit]:
        return [Bent(how=make_how(kept[-1]), at=fitted.site)]

    return replace(EXAMPLE, fit=remembering, edits=edits)


BROKEN = {
    "config with a set in it": ("config_survives_json", making(lambda: Listed(thing={1}))),
    "config with any tuple": ("config_survives_json", making(lambda: Listed(thing=(1,)))),
    "mutable config": ("config_is_frozen", making(Loose)),
    "constructor makes a tensor": ("constructor_does_no_work", making(Busy)),
    "constructor makes a cache": ("constructor_does_no_work", making(Hoarding)),
    "fit sets a setting": ("fit_changes_neither_config_nor_model", fitting(changing_config)),
    "fit trains the model": ("fit_changes_neither_config_nor_model", fitting(changing_weights)),
    "fit leaves a hook": ("fit_changes_neither_config_nor_model", fitting(leaving_a_hook)),
    "global random numbers": ("same_seed_gives_same_bits", fitting(drawing_global_numbers)),
    "float32 always": ("dtype_is_kept", bending(lambda x, c: shifted(x.float()))),
    "NaN in bfloat16": (
        "dtype_is_kept",
        bending(lambda x, c: x / 0 if x.dtype == torch.bfloat16 else shifted(x)),
    ),
    "edit uses view": (
        "non_contiguous_input_is_the_same",
        bending(lambda x, c: shifted(x.view(-1).view(x.shape))),
    ),
    "fit reads memory": ("non_contiguous_input_is_the_same", fitting(reading_memory)),
    "edit in place": ("edits_leave_their_input_alone", bending(in_place)),
    "identity not quite": (
        "identity_leaves_logits_bit_equal",
        replace(EXAMPLE, identity=lambda m, w: fit(Centre(strength=1e-4), w).edits()),
    ),
    "identity without edits": (
        "identity_leaves_logits_bit_equal",
        replace(EXAMPLE, identity=lambda m, w: []),
    ),
    "edits do nothing": ("identity_leaves_logits_bit_equal", bending(lambda x, c: x.clone())),
    "hook left": ("nothing_is_left_after_exit", on_the_model(hooking)),
    "hook left by an exception": (
        "nothing_is_left_after_an_exception",
        on_the_model(hooking_until_the_end),
    ),
    "mean over padding": (
        "padding_and_batches_agree",
        bending(lambda x, c: x - x.mean(dim=1, keepdim=True)),
    ),
    "mean over the batch": (
        "padding_and_batches_agree",
        bending(lambda x, c: x - x.mean(dim=0, keepdim=True)),
    ),
    "last batch only": ("streaming_fit_equals_whole_fit", fitting(last_batch_only)),
    "setting lost": ("saved_and_loaded_is_the_same", fitting(as_class(Forgetful))),
    "pickle in the folder": ("saved_and_loaded_is_the_same", fitting(as_class(Pickling))),
    "report is a text": ("report_is_plain_data", fitting(as_class(Mute))),
    "graph is cut": ("gradient_flows_through_edits", bending(lambda x, c: shifted(x.detach()))),
    "gradient is zero": ("gradient_flows_through_edits", bending(lambda x, c: shifted(x * 0))),
    "any width will do": ("wrong_width_is_refused", bending(cut_to_width)),
    "any layer will do": ("missing_site_is_refused", bending(cut_to_width, "layers.*.resid_post")),
    "nothing is zero": ("empty_data_is_refused", fitting(zeros_for_nothing)),
    "a plain ValueError": ("empty_data_is_refused", fitting(plain_errors)),
    "an error without a name": ("empty_data_is_refused", fitting(nameless_errors)),
    "NaN is zero": ("nan_is_refused", fitting(zeros_for_nothing)),
    "not refused": (
        "what_the_example_lists_is_refused",
        replace(EXAMPLE, refused={"one": lambda world: Centre(strength=1.0)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_method_passes(check):
    result = judge(check, CHECKS[check])
    assert result.status == "passed", result.message


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_method_is_caught(fault):
    check, example = BROKEN[fault]
    result = judge(check, checks_for(RECORD, example)[check])
    assert result.status == "failed"
    assert result.message


RECORDS = {
    "no docstring": (
        "docstring_has_source_shapes_and_example",
        {"target": f"{__name__}:Anonymous"},
    ),
    "another paper": ("docstring_has_source_shapes_and_example", {"arxiv": "0000.00000"}),
    "another room": (
        "record_matches_its_target",
        {"target": "jackfield.sparsity.wina:WINA"},
    ),
    "no arXiv id": ("record_matches_its_target", {"arxiv": "cs/0112017x"}),
    "no class": ("record_matches_its_target", {"target": "jackfield.steering"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECORDS)
def test_a_broken_record_is_caught(fault):
    check, changes = RECORDS[fault]
    record = replace(RECORD, **changes)
    assert judge(check, checks_for(record, EXAMPLE)[check]).status == "failed"


def test_every_check_is_shown_failing():
    caught = {check for check, _ in (*BROKEN.values(), *RECORDS.values())}
    assert caught == set(CHECKS)


def test_tags_choose_checks():
    plain = checks_for(replace(RECORD, streaming=False), replace(EXAMPLE, differentiable=False))
    assert set(CHECKS) - set(plain) == {
        "streaming_fit_equals_whole_fit",
        "gradient_flows_through_edits",
    }


def test_an_example_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="example of centre: expected StudyExample"):
        checks_for(replace(RECORD, kind="study"), EXAMPLE)

"""Each check of a part and of a saved-tensor policy fails on one that is broken in its way."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jackfield.core.config import config
from jackfield.core.records import Record
from jackfield.model.saving import SavingPolicy
from jackfield.testing import PartExample, SavingExample, checks_for, judge, tiny_llama


class Leaky(nn.Module):
    """max(x, slope x), [...] → [...], with a slope that trains (arXiv 1234.56789).

    >>> Leaky()(torch.tensor([-1.0])).item()
    -0.5
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


class Float32(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Overflowing(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (0 if x.dtype == torch.bfloat16 else 1)


class Coarse(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        rounded = super().forward(x).bfloat16().to(x.dtype)
        return rounded if x.dtype == torch.float32 else super().forward(x)


class Viewing(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1)).view(x.shape)


class InPlace(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.slope) if not x.requires_grad else x * self.slope


class Detached(Leaky):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.detach()


class Forgetful(Leaky):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.randn(())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift.to(x.dtype)


class Keeper(Leaky):
    """Marks the model that it stood in: it goes on after the block."""

    def forward(self, x: Tensor) -> Tensor:
        MODELS[-1].module.register_forward_hook(lambda *_: None)
        return super().forward(x)


class Silu(nn.SiLU):
    """What the model has anyway."""


MODELS: list[Any] = []
PART = PartExample(make=Leaky, swap="model.layers.*.mlp.act_fn")
RECORD = Record(
    name="leaky",
    kind="part",
    summary="Leaky.",
    chapter="functions",
    target=f"{__name__}:Leaky",
    paper="Nobody 2012",
    arxiv="1234.56789",
)
BROKEN_PART = {
    Float32: "part_keeps_dtype",
    Overflowing: "part_keeps_dtype",
    Coarse: "part_agrees_across_precisions",
    Viewing: "part_takes_non_contiguous_input",
    InPlace: "part_takes_non_contiguous_input",
    Detached: "part_passes_gradcheck",
    Forgetful: "part_state_round_trips",
    Silu: "part_swaps_in_and_out",
    Keeper: "part_swaps_in_and_out",
}


@config
class Halves(SavingPolicy):
    """Keeps float32 as bfloat16 (arXiv 1234.56789), [...] as it was.

    >>> Halves()
    Halves()
    """

    def pack(self, x: Tensor) -> Any:
        return (x.dtype, x.bfloat16() if x.dtype == torch.float32 else x)

    def unpack(self, kept: Any) -> Tensor:
        dtype, x = kept
        return x.to(dtype)


class Narrow(Halves):
    def unpack(self, kept: Any) -> Tensor:
        return kept[1]


class Rounding(Halves):
    def pack(self, x: Tensor) -> Any:
        return (x.dtype, x // 2 if x.dtype == torch.int64 else super().pack(x)[1])


class Meddling(Halves):
    def pack(self, x: Tensor) -> Any:
        if x.is_floating_point():
            x.data.mul_(1.01)
        return super().pack(x)


class Wrong(Halves):
    def unpack(self, kept: Any) -> Tensor:
        return super().unpack(kept) * (2 if kept[0].is_floating_point else 1)


class Lazy(Halves):
    def pack(self, x: Tensor) -> Any:
        return (x.dtype, x)


class Greedy(Halves):
    def pack(self, x: Tensor) -> Any:
        return (x.dtype, x.double() if x.is_floating_point() else x)


SAVING = SavingExample(make=Halves, tolerance=0.02)
SAVING_RECORD = replace(RECORD, name="halves", target=f"{__name__}:Halves", chapter="memory")
BROKEN_SAVING = {
    "narrow": (Narrow, "saving_keeps_shape_and_dtype"),
    "rounds integers": (Rounding, "saving_keeps_shape_and_dtype"),
    "changes the forward": (Meddling, "saving_leaves_the_forward_alone"),
    "wrong": (Wrong, "saving_gradients_stay_close"),
    "lazy": (Lazy, "saving_gradients_stay_close"),
    "greedy": (Greedy, "saving_keeps_fewer_bytes"),
}
GOOD = {
    **{f"part {name}": check for name, check in checks_for(RECORD, PART).items()},
    **{f"saving {name}": check for name, check in checks_for(SAVING_RECORD, SAVING).items()},
}


@pytest.mark.parametrize("check", GOOD)
def test_a_good_one_passes(check):
    result = judge(check, GOOD[check])
    assert result.status == "passed", result.message


@pytest.mark.parametrize("broken", BROKEN_PART)
def test_a_broken_part_is_caught(broken, monkeypatch):
    check = BROKEN_PART[broken]

    def remembered(*args: Any, **options: Any) -> Any:
        MODELS.append(tiny_llama(*args, **options))
        return MODELS[-1]

    monkeypatch.setattr("jackfield.testing.part_checks.tiny_llama", remembered)
    example = PartExample(make=broken, swap=PART.swap)
    assert judge(check, checks_for(RECORD, example)[check]).status == "failed"


@pytest.mark.parametrize("fault", BROKEN_SAVING)
def test_a_broken_policy_is_caught(fault):
    broken, check = BROKEN_SAVING[fault]
    example = SavingExample(make=broken, tolerance=0.02)
    assert judge(check, checks_for(SAVING_RECORD, example)[check]).status == "failed"


def test_every_check_is_shown_failing():
    part, saving = (
        {name for name in checks_for(record, example) if name.startswith(("part_", "saving_"))}
        for record, example in ((RECORD, PART), (SAVING_RECORD, SAVING))
    )
    assert set(BROKEN_PART.values()) == part
    assert {check for _, check in BROKEN_SAVING.values()} == saving

"""Checks of a part (an `nn.Module`), and of a saved-tensor policy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jackfield.core.records import Record
from jackfield.memory import SavedBytes
from jackfield.model.model import Model
from jackfield.testing.claims import claim, near, same, traces, untouched
from jackfield.testing.example import PartExample, SavingExample
from jackfield.testing.worlds import spread, tiny_llama

_TOKENS = torch.tensor([[5, 9, 2, 7, 11, 3], [8, 1, 4, 6, 10, 12]])


def part_keeps_dtype(record: Record, example: PartExample) -> None:
    """In float32, float64 and bfloat16 the output has the input's dtype and finite numbers."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = example.make().to(dtype)(example.x().to(dtype))
        claim(out.dtype == dtype, f"{dtype} became {out.dtype}")
        claim(bool(torch.isfinite(out).all()), f"not finite in {dtype}")


def part_agrees_across_precisions(record: Record, example: PartExample) -> None:
    """float32 and bfloat16 give what float64 gives, up to rounding."""
    exact = example.make().double()(example.x().double())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        out = example.make().to(dtype)(example.x().to(dtype))
        near(exact, out.double(), f"in {dtype}", tolerance=tolerance)


def part_takes_non_contiguous_input(record: Record, example: PartExample) -> None:
    """Spread input gives the same output, and no input is changed in place."""
    module, x = example.make(), example.x()
    kept = x.clone()
    near(module(x), module(spread(x)), "spread input", tolerance=1e-6)
    same(kept, x, "the input")


def part_passes_gradcheck(record: Record, example: PartExample) -> None:
    """The gradient in float64 is that of finite differences."""
    module, x = example.make().double(), example.x().double().requires_grad_()
    torch.autograd.gradcheck(module, (x,))


def part_state_round_trips(record: Record, example: PartExample) -> None:
    """A state dict, loaded into a new one, gives the same output bit for bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = example.make()
        torch.manual_seed(1)
        again = example.make()
    again.load_state_dict(module.state_dict())
    same(module(example.x()), again(example.x()), "the output")


def part_swaps_in_and_out(record: Record, example: PartExample) -> None:
    """In a model's place it changes the logits; after the block the first ones are back."""
    if example.swap is None:
        return
    model = tiny_llama()
    before, plain = traces(model.module), model.run(_TOKENS).logits
    with model.swapping(example.swap, lambda old, path: example.make()) as paths:
        claim(len(paths) > 0, f"{example.swap} matches nothing")
        swapped = model.run(_TOKENS).logits
    claim(not torch.equal(plain, swapped), "the swap does not change the logits")
    untouched(before, model.module, "after the swap")
    same(plain, model.run(_TOKENS).logits, "the logits after the swap")


def saving_keeps_shape_and_dtype(record: Record, example: SavingExample) -> None:
    """Pack → unpack gives the shape, dtype and device of what was packed; integers exactly."""
    policy = example.make()
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=draw)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        x = (base * 10).to(dtype)
        for given in (x, spread(x), x[:0], x[0, 0]):
            back = policy.unpack(policy.pack(given))
            same(
                [given.dtype, given.shape, given.device],
                [back.dtype, back.shape, back.device],
                "kept",
            )
            if not dtype.is_floating_point:
                same(given, back, f"a saved {dtype}")


def saving_leaves_the_forward_alone(record: Record, example: SavingExample) -> None:
    """Logits and loss are bit-equal with and without the policy."""
    model = example.model(torch.float32)
    plain, _ = _trained(model)
    with model.saving(example.make()):
        kept, _ = _trained(model)
    same(plain, kept, "the loss")


def saving_gradients_stay_close(record: Record, example: SavingExample) -> None:
    """Gradients move, by at most the example's tolerance; after the block they are exact again."""
    model = example.model(torch.float32)
    _, exact = _trained(model)
    with model.saving(example.make()):
        _, found = _trained(model)
    apart = float((exact - found).norm() / exact.norm())
    claim(apart <= example.tolerance, f"gradients moved by {apart:.2g} > {example.tolerance:.2g}")
    claim(apart > 0, "gradients are bit-equal: nothing was packed")
    same(exact, _trained(model)[1], "the gradients after the block")


def saving_keeps_fewer_bytes(record: Record, example: SavingExample) -> None:
    """After a forward fewer bytes are held than without the policy."""
    model = example.model(torch.float32)
    with model.saving(meter := SavedBytes(example.make())):
        model.module(input_ids=_TOKENS, labels=_TOKENS, use_cache=False)
    claim(meter.bytes < meter.unpacked_bytes, f"{meter.unpacked_bytes} bytes kept as {meter.bytes}")


PART_CHECKS: tuple[Callable[[Record, Any], None], ...] = (
    part_keeps_dtype,
    part_agrees_across_precisions,
    part_takes_non_contiguous_input,
    part_passes_gradcheck,
    part_state_round_trips,
    part_swaps_in_and_out,
)
SAVING_CHECKS: tuple[Callable[[Record, Any], None], ...] = (
    saving_keeps_shape_and_dtype,
    saving_leaves_the_forward_alone,
    saving_gradients_stay_close,
    saving_keeps_fewer_bytes,
)


def _trained(model: Model) -> tuple[Tensor, Tensor]:
    """The loss of one step, and all gradients in one vector."""
    model.module.zero_grad()
    loss = model.module(input_ids=_TOKENS, labels=_TOKENS, use_cache=False).loss
    loss.backward()
    gradients = [each.grad.flatten() for each in model.module.parameters() if each.grad is not None]
    flat = torch.cat(gradients)
    model.module.zero_grad()
    return loss.detach(), flat

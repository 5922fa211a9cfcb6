"""Checks of a method: config → fit → fitted object that edits, reports, and is saved."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from jackfield.core.config import to_json
from jackfield.core.records import Record
from jackfield.edits import Context, Edit, Function
from jackfield.edits.base import apply_edit
from jackfield.model.model import Model
from jackfield.testing.claims import (
    as_json,
    chance,
    claim,
    near,
    refuses,
    report_of,
    same,
    state_of,
    traces,
    untouched,
)
from jackfield.testing.example import MethodExample
from jackfield.testing.worlds import World, spread, tiny_llama

_LENGTHS = (7, 3, 5)  # of the rows that are padded
_STREAMED = 1e-4  # how far a streamed fit may be from the whole one, of the largest number


def fit_changes_neither_config_nor_model(record: Record, example: MethodExample) -> None:
    """After a fit the config says what it said, and every weight has its bits."""
    method, world = example.make(), example.world(torch.float32)
    config, shown = as_json(to_json(method)), repr(method)
    weights = {name: each.clone() for name, each in world.model.module.state_dict().items()}
    left = traces(world.model.module)
    example.fit(method, world)
    same(config, as_json(to_json(method)), "the config")
    same(shown, repr(method), "the config's repr")
    same(weights, dict(world.model.module.state_dict()), "the weights")
    untouched(left, world.model.module, "after the fit")


def same_seed_gives_same_bits(record: Record, example: MethodExample) -> None:
    """Two fits are equal bit for bit, whatever the global random numbers are."""
    found = []
    for seed in (1, 2):
        with chance(seed):
            fitted = example.fit(example.make(), example.world(torch.float32))
            found.append((state_of(fitted), _logits(example.world(torch.float32), example, fitted)))
    same(found[0][0], found[1][0], "two fits")
    same(found[0][1], found[1][1], "the logits of two fits")


def dtype_is_kept(record: Record, example: MethodExample) -> None:
    """In float32 and bfloat16 the edits give back the activation's dtype, and so do the logits."""
    for dtype in (torch.float32, torch.bfloat16):
        world = example.world(dtype)
        edits = example.edits(example.fit(example.make(), world))
        for edit, x, context in _places(edits, world):
            new = edit.apply(x, context)
            claim(new.dtype == x.dtype, f"{context.site}: {x.dtype} became {new.dtype}")
            claim(new.device == x.device, f"{context.site}: {x.device} became {new.device}")
            claim(new.shape == x.shape, f"{context.site}: {x.shape} became {new.shape}")
        logits = world.model.run(world.tokens[:2], edits=edits).logits
        claim(logits.dtype == dtype, f"logits of a {dtype} model became {logits.dtype}")
        claim(bool(torch.isfinite(logits).all()), f"logits of a {dtype} model are not finite")


def non_contiguous_input_is_the_same(record: Record, example: MethodExample) -> None:
    """Data that is spread in memory fits the same, and edits of spread activations are the same."""
    world = example.world(torch.float32)
    fitted = example.fit(example.make(), world)
    strided = example.fit(example.make(), world.spread())
    for name, tensor in state_of(fitted)["tensors"].items():
        near(tensor, state_of(strided)["tensors"][name], f"{name} of a fit on spread data")
    for edit, x, context in _places(example.edits(fitted), world):
        near(edit.apply(x, context), edit.apply(spread(x), context), f"{context.site}, spread")


def edits_leave_their_input_alone(record: Record, example: MethodExample) -> None:
    """An edit gives a new tensor; the activation that it was given keeps its bits."""
    world = example.world(torch.float32)
    for edit, x, context in _places(example.edits(example.fit(example.make(), world)), world):
        kept = x.clone()
        edit.apply(x, context)
        same(kept, x, f"{context.site}, what {type(edit).__name__} was given")


def identity_leaves_logits_bit_equal(record: Record, example: MethodExample) -> None:
    """The setting that changes nothing changes nothing, to the bit; the usual one does."""
    world = example.world(torch.float32)
    plain = world.model.run(world.tokens).logits
    edits = example.identity(example.make(), world)
    claim(len(edits) > 0, "the identity setting has no edits, so nothing is shown")
    same(plain, world.model.run(world.tokens, edits=edits).logits, "the logits")
    changed = _logits(world, example, example.fit(example.make(), world))
    claim(not torch.equal(plain, changed), "the usual edits do not change the logits")


def nothing_is_left_after_exit(record: Record, example: MethodExample) -> None:
    """After the block the first logits are back bit for bit, and no hook is left."""
    world = example.world(torch.float32)
    edits = example.edits(example.fit(example.make(), world))
    before, plain = traces(world.model.module), _bare(world)
    with world.model.editing(edits):
        _bare(world)
    untouched(before, world.model.module, "after the block")
    same(plain, _bare(world), "the logits after the block")
    world.model.run(world.tokens, edits=edits)
    untouched(before, world.model.module, "after a run")


def nothing_is_left_after_an_exception(record: Record, example: MethodExample) -> None:
    """Likewise if the block, or an edit in the middle of the forward, raises."""
    world = example.world(torch.float32)
    edits = example.edits(example.fit(example.make(), world))
    before, plain = traces(world.model.module), _bare(world)
    last = f"layers.{world.model.n_layers - 1}.resid_post"
    for failing in ([*edits], [*edits, Function(_fail, at=last)]):
        try:
            with world.model.editing(failing):
                _bare(world)
                _fail(plain)
        except _StoppedError:
            pass
        untouched(before, world.model.module, "after an exception")
        same(plain, _bare(world), "the logits after an exception")


def padding_and_batches_agree(record: Record, example: MethodExample) -> None:
    """Edited rows give the same logits alone, in a batch, and padded on either side."""
    world = example.world(torch.float32)
    edits = example.edits(example.fit(example.make(), world))
    rows = [row[:n] for row, n in zip(world.tokens, _LENGTHS, strict=False)]
    alone = [world.model.run(row[None], edits=edits).logits[0] for row in rows]
    for side in ("left", "right"):
        tokens, mask = _padded(rows, side)
        call = {"input_ids": tokens, "attention_mask": mask.long()}
        logits = world.model.run(call, edits=edits).logits
        for index, expected in enumerate(alone):
            near(expected, logits[index][mask[index]], f"row {index}, padded on the {side}")


def streaming_fit_equals_whole_fit(record: Record, example: MethodExample) -> None:
    """A fit on a stream of small batches is the fit on all rows at once, up to rounding."""
    world = example.world(torch.float32)
    whole = example.fit(example.make(), world.rebatched(1 << 20)).state()[1]
    parts = example.fit(example.make(), world.rebatched(7)).state()[1]
    claim(whole.keys() == parts.keys(), f"{sorted(whole)} became {sorted(parts)}")
    for name in whole:
        near(whole[name], parts[name], f"{name} of a fit in batches of 7", tolerance=_STREAMED)


def saved_and_loaded_is_the_same(record: Record, example: MethodExample) -> None:
    """Save → load gives the same state, edits and report, from safetensors and JSON alone."""
    world = example.world(torch.float32)
    fitted = example.fit(example.make(), world)
    with TemporaryDirectory() as folder:
        path = fitted.save(Path(folder) / "fitted")
        suffixes = {each.suffix for each in path.rglob("*") if each.is_file()}
        claim(suffixes <= {".json", ".safetensors"}, f"the folder holds {', '.join(suffixes)}")
        again = type(fitted).load(path)
    same(state_of(fitted), state_of(again), "the state")
    same(_logits(world, example, fitted), _logits(world, example, again), "the edited logits")
    same(report_of(fitted).to_json(), report_of(again).to_json(), "the report")


def report_is_plain_data(record: Record, example: MethodExample) -> None:
    """`report()` gives a Report with a sentence and blocks, the same after JSON."""
    report_of(example.fit(example.make(), example.world(torch.float32)))


def gradient_flows_through_edits(record: Record, example: MethodExample) -> None:
    """The gradient at the activation before each edit is finite and not all zero."""
    world = example.world(torch.float32)
    for edit, x, context in _places(example.edits(example.fit(example.make(), world)), world):
        given = x.clone().requires_grad_()
        new = apply_edit(edit, given, context)
        claim(new.requires_grad, f"{context.site}: the edit cuts the graph")
        (gradient,) = torch.autograd.grad(new.square().sum(), given)
        claim(bool(torch.isfinite(gradient).all()), f"{context.site}: gradient not finite")
        claim(bool(gradient.any()), f"{context.site}: the gradient is zero everywhere")


def wrong_width_is_refused(record: Record, example: MethodExample) -> None:
    """Edits on a model of another width raise our error, which names the site."""
    world = example.world(torch.float32)
    edits = example.edits(example.fit(example.make(), world))
    wide = tiny_llama(d_model=2 * world.model.d_model)
    wider = [edit for edit in edits if _width(world.model, edit) != _width(wide, edit)]
    claim(len(wider) > 0, "no edit acts at a site whose width depends on d_model")
    for edit in wider:
        call = partial(wide.run, world.tokens[:1], edits=[edit])
        refuses(call, edit.sites, "another width")


def missing_site_is_refused(record: Record, example: MethodExample) -> None:
    """Edits on a model without their site raise our error, which names the site or the layer."""
    world = example.world(torch.float32)
    edits = example.edits(example.fit(example.make(), world))
    sites = tuple(chain.from_iterable(edit.sites for edit in edits))
    short = tiny_llama(layers=1)
    refuses(lambda: short.run(world.tokens[:1], edits=edits), sites, "a model of one block")


def empty_data_is_refused(record: Record, example: MethodExample) -> None:
    """A fit on nothing raises our error, which names the method, the site or the model."""
    world = example.world(torch.float32).emptied()
    refuses(lambda: example.fit(example.make(), world), _names(example, world), "a fit on nothing")


def nan_is_refused(record: Record, example: MethodExample) -> None:
    """A fit on activations or weights with NaN raises our error, which names where."""
    world = example.world(torch.float32).poisoned()
    refuses(lambda: example.fit(example.make(), world), _names(example, world), "a fit on NaN")


def what_the_example_lists_is_refused(record: Record, example: MethodExample) -> None:
    """Each call in the example's `refused` raises our error, which names where."""
    world = example.world(torch.float32)
    for what, call in example.refused.items():
        refuses(partial(call, world), _names(example, world), what)


METHOD_CHECKS: tuple[Callable[[Record, Any], None], ...] = (
    fit_changes_neither_config_nor_model,
    same_seed_gives_same_bits,
    dtype_is_kept,
    non_contiguous_input_is_the_same,
    edits_leave_their_input_alone,
    identity_leaves_logits_bit_equal,
    nothing_is_left_after_exit,
    nothing_is_left_after_an_exception,
    padding_and_batches_agree,
    saved_and_loaded_is_the_same,
    report_is_plain_data,
    wrong_width_is_refused,
    missing_site_is_refused,
    empty_data_is_refused,
    nan_is_refused,
    what_the_example_lists_is_refused,
)


class _StoppedError(Exception):
    """Raised by the checks themselves."""


def _fail(x: Tensor, context: Any = None) -> Tensor:
    raise _StoppedError


def _logits(world: World, example: MethodExample, fitted: Any) -> Tensor:
    return world.model.run(world.tokens, edits=example.edits(fitted)).logits


def _bare(world: World) -> Tensor:
    """Logits of the module itself, without the instrument."""
    with torch.no_grad():
        logits: Tensor = world.model.module(input_ids=world.tokens, use_cache=False).logits
    return logits


def _places(edits: list[Edit], world: World) -> Iterator[tuple[Edit, Tensor, Context]]:
    """Each edit with the activation at its site and its context there."""
    claim(len(edits) > 0, "there are no edits")
    for edit in edits:
        for name in world.model.sites.select(list(edit.sites)):
            run = world.model.run(world.tokens[:2], sites=[name, *edit.reads], logits=False)
            axes = world.model.sites[name].axes
            yield edit, run[name], Context(name, axes, read=run.__getitem__)


def _padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Token ids [row, position] and which of them are real."""
    length = max(map(len, rows))
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(None, len(row))
        tokens[index, place], mask[index, place] = row, True
    return tokens, mask


def _width(model: Model, edit: Edit) -> int:
    name = model.sites.select(list(edit.sites))[0]
    run = model.run(torch.tensor([[1, 2]]), sites=[name], logits=False)
    return run[name].shape[-1]


def _names(example: MethodExample, world: World) -> tuple[str, ...]:
    return (type(example.make()).__name__, world.model.name, "layers.")

"""PID steering: the law run by hand, with its reset, and what each of its parts does."""

import pytest
import torch

from jackfield.core.errors import InputError, SiteError
from jackfield.edits import Add
from jackfield.steering.control import PIDSteering
from jackfield.testing import tiny_llama

ALL = "layers.*.resid_post"


def texts(count: int, seed: int, low: int = 1, high: int = 100) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 9), generator=draw)


SIDES = {"positive": texts(8, 1, high=50), "negative": texts(8, 2, low=50)}


@pytest.mark.parametrize("reset", [1, 2, 3, 10])
def test_the_control_is_that_of_the_law_run_layer_by_layer(reset):
    """u is the edited output minus that of the same block, given the same input."""
    model = tiny_llama(torch.float64, layers=5)
    method = PIDSteering(proportional=0.4, integral=0.2, derivative=0.1, reset=reset)
    found = method.fit(model, **SIDES, at=ALL)
    inputs = "layers.*.resid_pre"
    run = model.run(texts(2, 3), sites=[inputs, ALL], edits=found.edits(1.0, where="all"))
    total, last = torch.zeros(2, 9, 32, dtype=torch.float64), None
    for t, (at, loop) in enumerate(found.loops.items()):
        x, unit = run[f"layers.{t}.resid_pre"], loop.directions[-1].double()
        e = (found.means[at][0] - x @ unit)[..., None] * unit
        total = e if t % reset == 0 else total + e
        change = e - last if last is not None else torch.zeros_like(e)
        last = e
        u = 0.4 * e + 0.2 * total + 0.1 * change
        plain = model.segment(f"layers.{t}.resid_pre", at, texts(2, 3))(x)
        torch.testing.assert_close(run[at], plain + u, atol=1e-5, rtol=1e-5)


def test_a_proportional_gain_of_one_puts_every_token_on_the_set_point(tiny64):
    """Where blocks write nothing, one step of the whole error ends it."""
    with torch.no_grad():
        for block in tiny64.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    method = PIDSteering(proportional=1.0, integral=0.0, derivative=0.0)
    found = method.fit(tiny64, **SIDES, at="layers.1:2.resid_post")
    at = "layers.1.resid_post"
    for factor in (-1.0, 1.0, 3.0):
        x = tiny64.run(texts(3, 4), sites=[at], edits=found.edits(factor, where="all"))[at]
        loop = found.loops[at]
        goal = torch.full((3, 9), loop.origins[0] + factor * loop.spans[0], dtype=torch.float64)
        torch.testing.assert_close(x @ loop.directions[0].double(), goal, atol=1e-5, rtol=0)


def test_an_integral_takes_away_an_offset_that_a_proportional_gain_leaves():
    """Each block pushes back by 0.3: P alone stays off by 0.3 / K_p, an integral ends that."""
    model = tiny_llama(torch.float64, layers=12)
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    left = {}
    for integral in (0.0, 0.2):
        method = PIDSteering(proportional=0.5, integral=integral, derivative=0.0, reset=99)
        found = method.fit(model, **SIDES, at=ALL)
        loop = found.loops["layers.11.resid_post"]
        unit = loop.directions[-1].double()
        drag = [Add(unit, at=f"layers.{t}.resid_post", strength=-0.3) for t in range(12)]
        edits = [each for pair in zip(drag, found.edits(where="all"), strict=True) for each in pair]
        site = "layers.11.resid_pre"
        x = model.run(texts(2, 3), sites=[site], edits=edits)[site]
        left[integral] = float((x @ unit - loop.origins[-1] - loop.spans[-1]).abs().mean())
    assert left[0.0] == pytest.approx(0.3 / 0.5, rel=0.05)
    assert left[0.2] < 0.1 * left[0.0]


def test_strength_zero_changes_no_bit(tiny):
    found = PIDSteering().fit(tiny, **SIDES)
    rows = texts(2, 3)
    assert torch.equal(tiny.run(rows, edits=found.edits(0.0)).logits, tiny.run(rows).logits)


def test_bad_input_is_refused(tiny):
    with pytest.raises(InputError, match="sides that differ"):
        PIDSteering().fit(tiny, positive=SIDES["negative"], negative=SIDES["negative"])
    with pytest.raises(InputError, match="at least one"):
        PIDSteering().fit(tiny, positive=SIDES["positive"], negative=[])
    with pytest.raises(SiteError, match="consecutive outputs of blocks"):
        PIDSteering().fit(tiny, **SIDES, at="layers.*.mlp_out")

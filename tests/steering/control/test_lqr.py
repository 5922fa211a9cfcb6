"""LQR: Jacobians and the Riccati recursion against other computations; the loop on planted ones."""

import pytest
import torch
from torch import nn

import jackfield as jf
from jackfield.core.errors import EditError, InputError, SiteError
from jackfield.steering import BEHAVIOURS
from jackfield.steering.control import LQR, block_jacobians
from jackfield.steering.control.riccati import backwards
from jackfield.testing import tiny_llama


def texts(count: int, seed: int, low: int = 1, high: int = 100) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 9), generator=draw)


SIDES = {"positive": texts(8, 1, high=50), "negative": texts(8, 2, low=50)}
ALL = "layers.0:3.resid_post"


class LinearBlock(nn.Module):
    """What stands in for an MLP: x + x (Mᵀ − 1) = x Mᵀ behind an identity norm."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("change", matrix.T - torch.eye(len(matrix)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.change


def linear_model(scale: float = 1.0, noise: float = 0.1) -> tuple[jf.Model, list[torch.Tensor]]:
    """A model whose block t is exactly x → M_t x, and the M_t."""
    module = tiny_llama(torch.float64).module
    draw = torch.Generator().manual_seed(5)
    matrices = []
    for block in module.model.layers:
        noisy = noise * torch.randn(32, 32, generator=draw, dtype=torch.float64)
        matrices.append(scale * torch.eye(32) + noisy)
        with torch.no_grad():
            block.self_attn.o_proj.weight.zero_()
        block.post_attention_layernorm = nn.Identity()
        block.mlp = LinearBlock(matrices[-1])
    return jf.wrap(module, name="linear"), matrices


def test_the_jacobian_is_that_of_autograd_at_the_last_token(tiny64):
    rows = texts(1, 3)
    found = block_jacobians(tiny64, list(rows), [0, 2])
    for layer, jacobian in found.items():
        block = tiny64.segment(f"layers.{layer}.resid_pre", f"layers.{layer}.resid_post", rows)
        whole = torch.autograd.functional.jacobian(block, block.point)
        torch.testing.assert_close(jacobian.double(), whole[0, -1, :, 0, -1], atol=1e-6, rtol=1e-5)


def test_the_jacobian_is_that_of_finite_differences(tiny64):
    rows, step = texts(1, 3), 1e-3  # the norms compute in float32
    jacobian = block_jacobians(tiny64, list(rows), [1])[1]
    block = tiny64.segment("layers.1.resid_pre", "layers.1.resid_post", rows)
    for unit in (0, 7, 31):
        push = torch.zeros_like(block.point)
        push[0, -1, unit] = step
        with torch.no_grad():
            slope = (block(block.point + push) - block(block.point - push))[0, -1] / 2 / step
        torch.testing.assert_close(jacobian[:, unit].double(), slope, atol=1e-3, rtol=0)
        assert float(slope.abs().max()) > 0.1


def test_the_jacobian_is_a_mean_over_texts_of_the_first_tokens(tiny64):
    rows = texts(3, 4)
    mean = block_jacobians(tiny64, list(rows), [1], context=5)[1]
    each = [block_jacobians(tiny64, [row[:5]], [1])[1] for row in rows]
    torch.testing.assert_close(mean, torch.stack(each).mean(dim=0))


def test_the_jacobian_of_a_linear_block_is_its_matrix():
    model, matrices = linear_model()
    found = block_jacobians(model, list(texts(2, 4)), [0, 1, 2])
    for layer, matrix in enumerate(matrices):
        torch.testing.assert_close(found[layer].double(), matrix, atol=1e-6, rtol=1e-5)


def test_the_gains_have_the_least_cost_of_all_controls():
    """The cost is a quadratic in all u together: least squares finds its minimum directly."""
    draw = torch.Generator().manual_seed(0)
    d, steps, q, r, final = 4, 5, 2.0, 3.0, 7.0
    a = [torch.randn(d, d, generator=draw, dtype=torch.float64) for _ in range(steps)]
    start = torch.randn(d, generator=draw, dtype=torch.float64)
    gains: dict[int, torch.Tensor] = {}
    cost = backwards(a, gains.__setitem__, state=q, control=r, final=final)

    def residuals(u: torch.Tensor) -> torch.Tensor:
        e, parts = start, []
        for t in range(steps):
            parts += [q**0.5 * e, r**0.5 * u[t]]
            e = a[t] @ e - u[t]
        return torch.cat([*parts, final**0.5 * e])

    zero = torch.zeros(steps, d, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(residuals, zero).flatten(1)
    best = torch.linalg.lstsq(slope, -residuals(zero)[:, None]).solution.reshape(steps, d)
    assert float(start @ cost @ start) == pytest.approx(float(residuals(best).square().sum()))
    e = start
    for t in range(steps):
        torch.testing.assert_close(gains[t] @ e, best[t])
        e = (a[t] - gains[t]) @ e


def test_far_from_the_end_the_recursion_is_at_the_discrete_algebraic_riccati_equation():
    linalg = pytest.importorskip("scipy.linalg")
    draw = torch.Generator().manual_seed(1)
    a = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    cost = backwards([a] * 200, lambda t, gain: None, state=2.0, control=3.0, final=1.0)
    one = torch.eye(5, dtype=torch.float64)
    known = linalg.solve_discrete_are(a.numpy(), one.numpy(), 2 * one.numpy(), 3 * one.numpy())
    torch.testing.assert_close(cost, torch.from_numpy(known))


def test_the_closed_loop_of_a_linear_model_goes_as_the_theory_says():
    """x ← M x + k (goal − v̂ᵀx): the residual stream is that of the loop run by hand."""
    model, matrices = linear_model()
    found = LQR(prompts=2).fit(model, **SIDES, at=ALL)
    sites = ["layers.0.resid_pre", ALL]
    run = model.run(texts(2, 6), sites=sites, edits=found.edits(1.5, where="all"))
    x = run["layers.0.resid_pre"]
    for matrix, (at, loop) in zip(matrices, found.loops.items(), strict=True):
        error = loop.origins[0] + 1.5 * loop.spans[0] - x @ loop.directions[0].double()
        x = x @ matrix.T + error[..., None] * loop.responses[0].double()
        torch.testing.assert_close(run[at], x, atol=1e-6, rtol=1e-5)


def test_where_layers_keep_what_they_get_the_set_point_is_reached_from_everywhere():
    """With A = 1 an error shrinks by Π (1 − k_t), k_t the scalar Riccati gain."""
    model, _ = linear_model(noise=0.0)
    method = LQR(prompts=2, control=0.5, final=10.0)
    found = method.fit(model, **SIDES, at=ALL)
    gains: dict[int, torch.Tensor] = {}
    one = [torch.ones(1, 1)] * 3
    backwards(one, gains.__setitem__, state=10.0, control=0.5, final=10.0)
    left = float(torch.stack([1 - gains[t] for t in range(3)]).prod())
    sites = ["layers.0.resid_pre", "layers.2.resid_post"]
    for factor in (-1.0, 1.0, 2.0):
        run = model.run(texts(4, 6), sites=sites, edits=found.edits(factor, where="all"))
        loop = found.loops["layers.2.resid_post"]
        goal = loop.origins[0] + factor * loop.spans[0]
        before, after = (goal - run[site] @ loop.directions[0].double() for site in sites)
        torch.testing.assert_close(after, left * before, atol=1e-5, rtol=1e-4)
    assert abs(left) < 0.01


def test_the_goals_at_one_and_minus_one_are_the_two_means(tiny64):
    found = LQR(prompts=2).fit(tiny64, **SIDES)
    for at, loop in found.loops.items():
        layer = at.split(".")[1]
        for side, sign in (("positive", 1), ("negative", -1)):
            site = f"layers.{layer}.resid_pre"
            kept = [p for p in range(9) if p not in tiny64.sinks]
            mean = tiny64.run(SIDES[side], sites=[site])[site][:, kept].mean(dim=(0, 1))
            goal = loop.origins[0] + sign * loop.spans[0]
            assert float(mean @ loop.directions[0].double()) == pytest.approx(goal, abs=1e-5)


def test_from_zero_the_goal_is_lambda_times_the_length_of_the_difference(tiny64):
    found = LQR(prompts=2, origin="zero").fit(tiny64, **SIDES)
    for at, loop in found.loops.items():
        plus, minus = found.means[at]
        assert (loop.origins, loop.spans) == ((0.0,), (pytest.approx(plus - minus),))


def test_below_one_the_law_is_faded_in_and_above_it_the_set_point_moves(tiny64):
    loop = next(iter(LQR(prompts=2).fit(tiny64, **SIDES).loops.values()))
    (origin,), (span,) = loop.origins, loop.spans
    expected = {0.0: (0, 1), 0.3: (0.3, 1), 1.0: (1, 1), 2.0: (1, 2), -0.3: (0.3, -1), -3: (1, -3)}
    for factor, (gain, goal) in expected.items():
        edit = loop.edit(factor, "layers.1.resid_post", "all")
        assert (edit.gain, edit.goals[0]) == (gain, pytest.approx(origin + goal * span))


def test_two_concepts_add_up(tiny64):
    """K (e₁ + e₂): the edits of both controllers add what each adds to the same stream."""
    one = LQR(prompts=2).fit(tiny64, **SIDES, at="layers.1:2.resid_post")
    other = LQR(prompts=2).fit(
        tiny64, positive=texts(8, 7), negative=texts(8, 8), at="layers.1:2.resid_post"
    )
    at, rows = "layers.1.resid_post", texts(2, 9)
    plain = tiny64.run(rows, sites=[at])[at]
    added = [tiny64.run(rows, sites=[at], edits=each.edits())[at] - plain for each in (one, other)]
    both = tiny64.run(rows, sites=[at], edits=[*one.edits(), *other.edits()])[at]
    torch.testing.assert_close(both - plain, added[0] + added[1])


def test_a_cache_makes_no_difference(tiny):
    found = LQR(prompts=2).fit(tiny, **SIDES)
    made = [
        tiny.generate(texts(2, 9), edits=found.edits(2.0), max_new_tokens=5, cache=cache).tokens
        for cache in ("dynamic", "none")
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positive": SIDES["negative"]}, "sides that differ"),
        ({"positive": SIDES["positive"][:0]}, "at least one"),
        ({"positive": texts(8, 1)[:, :1], "negative": texts(8, 2)[:, :1]}, "token"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(tiny, changed, message):
    with pytest.raises(InputError, match=message):
        LQR().fit(tiny, **{**SIDES, **changed})


@pytest.mark.parametrize("at", ["layers.1.z", ["layers.0.resid_post", "layers.2.resid_post"]])
def test_sites_that_are_no_run_of_blocks_are_refused(tiny, at):
    with pytest.raises(SiteError, match="consecutive outputs of blocks"):
        LQR().fit(tiny, **SIDES, at=at)


def test_a_controller_of_another_width_is_refused(tiny):
    found = LQR(prompts=2).fit(tiny, **SIDES)
    other = tiny_llama(d_model=16)
    with pytest.raises(EditError, match="a tensor that fits"):
        other.run(texts(1, 1), edits=found.edits())


def test_the_jacobian_of_the_real_model_is_that_of_forward_mode(smollm2):
    text = "The old man sat by the sea and"
    jacobian = block_jacobians(smollm2, [text], [12])[12]
    block = smollm2.segment("layers.12.resid_pre", "layers.12.resid_post", [text])
    push = torch.zeros_like(block.point)
    push[0, -1] = torch.randn(576, generator=torch.Generator().manual_seed(0))
    pushed = torch.func.jvp(block, (block.point,), (push,))[1][0, -1].detach()
    torch.testing.assert_close(jacobian @ push[0, -1], pushed, atol=1e-4, rtol=1e-4)


def test_feedback_steers_the_real_model_both_ways(smollm2):
    behaviour = BEHAVIOURS["sentiment"]
    found = LQR(prompts=1).fit(
        smollm2, positive=list(behaviour.positive)[:8], negative=list(behaviour.negative)[:8],
        at="layers.18:21.resid_post",
    )  # fmt: skip
    prompts = list(behaviour.prompts)[:4]
    down, plain, up = (
        behaviour.odds(smollm2, found.edits(factor), prompts=prompts) for factor in (-3.0, 0.0, 3.0)
    )
    assert torch.equal(plain, behaviour.odds(smollm2, prompts=prompts))
    assert float((up - plain).min()) > 0.5
    assert float((plain - down).min()) > 0.5

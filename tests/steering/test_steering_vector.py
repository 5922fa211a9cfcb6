"""The edits against plain hooks and weights, phases, caches; strengths, costs, files."""

import re
from typing import Any

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import InputError, JackfieldWarning
from jackfield.steering import MeanDifference, SteeringVector
from jackfield.testing import tiny_llama

AT = "layers.1.resid_post"


@pytest.fixture
def fitted(tiny64, monkeypatch) -> SteeringVector:
    monkeypatch.setattr(type(tiny64), "sinks", (0,))
    draw = torch.Generator().manual_seed(0)
    plus, minus = torch.randint(1, 100, (2, 12, 8), generator=draw)
    return MeanDifference().fit(tiny64, positive=plus, negative=minus, at=AT)


def by_hook(
    model: jf.Model, vector: torch.Tensor, tokens: torch.Tensor, first: int
) -> torch.Tensor:
    """The logits with `vector` added to block 1's output from position `first` on."""

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        new = output.clone()
        new[:, first:] += vector.to(output)
        return new

    hook = model.module.model.layers[1].register_forward_hook(add)
    with torch.no_grad():
        logits = model.module(tokens, use_cache=False).logits
    hook.remove()
    return logits


def test_strength_is_in_lengths_of_the_vector_and_sinks_are_left_alone(tiny64, fitted, tokens):
    steered = tiny64.run(tokens, edits=fitted.edits(3.0)).logits
    expected = by_hook(tiny64, 3 * fitted.vector.double(), tokens, first=1)
    torch.testing.assert_close(steered, expected)


def test_strength_may_be_in_residual_norms(tiny64, fitted, tokens):
    unit = fitted.vector / fitted.vector.norm()
    steered = tiny64.run(tokens, edits=fitted.edits("norm:0.5", where="all")).logits
    expected = by_hook(tiny64, 0.5 * fitted.residual_norm * unit, tokens, first=0)
    torch.testing.assert_close(steered, expected, atol=1e-6, rtol=1e-6)
    draw = torch.Generator().manual_seed(0)
    both = torch.cat([*torch.randint(1, 100, (2, 12, 8), generator=draw)])
    norms = tiny64.run(both, sites=[AT])[AT][:, 1:].norm(dim=-1)
    assert fitted.residual_norm == pytest.approx(float(norms.mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_zero_changes_no_bit(tiny, fitted, tokens, dtype):
    model = jf.wrap(tiny.module.to(dtype), name="tiny")
    plain = model.run(tokens).logits
    assert torch.equal(model.run(tokens, edits=fitted.edits(0.0)).logits, plain)
    assert not torch.equal(model.run(tokens, edits=fitted.edits(1.0)).logits, plain)


@pytest.mark.parametrize("where", ["~sinks", "generated", "prompt & ~sinks"])
def test_cached_generation_is_that_without_a_cache(tiny64, fitted, tokens, where):
    options = {"edits": fitted.edits(4.0, where=where), "max_new_tokens": 6, "logits": True}
    cached = tiny64.generate(tokens, **options)
    whole = tiny64.generate(tokens, cache="none", **options)
    assert torch.equal(cached.tokens, whole.tokens)
    torch.testing.assert_close(cached.logits, whole.logits, atol=1e-4, rtol=1e-4)


def test_the_last_prompt_token_is_steered_with_what_is_generated(tiny64, fitted, tokens):
    made = tiny64.generate(
        tokens, edits=fitted.edits(4.0, where="generated"), max_new_tokens=1, logits=True
    )
    last = tokens.shape[1] - 1
    expected = by_hook(tiny64, 4 * fitted.vector, tokens, first=last)[:, -1]
    torch.testing.assert_close(made.logits[:, 0], expected.float())


def test_ablation_leaves_nothing_along_the_direction_anywhere(tiny64, fitted, tokens):
    sites = ["layers.*.resid_post", "layers.*.resid_mid"]
    run = tiny64.run(tokens, sites=sites, edits=fitted.ablate())
    unit = (fitted.vector / fitted.vector.norm()).double()
    for name in run.sites:
        along = run[name] @ unit
        torch.testing.assert_close(along[:, 1:], torch.zeros_like(along[:, 1:]), atol=1e-6, rtol=0)
    assert float(run["layers.0.resid_post"][:, 0].double().matmul(unit).abs().min()) > 1e-3


def test_ablation_on_all_tokens_is_orthogonalised_weights(tiny64, fitted, tokens):
    unit = (fitted.vector / fitted.vector.norm()).double()
    hooked = tiny64.run(tokens, edits=fitted.ablate(where="all")).logits
    module = tiny64.module
    with torch.no_grad():
        embedding = module.model.embed_tokens.weight
        embedding -= (embedding @ unit)[:, None] * unit
        for block in module.model.layers:
            for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                weight -= unit[:, None] * (unit @ weight)
    torch.testing.assert_close(hooked, module(tokens).logits, atol=1e-5, rtol=1e-5)


def test_kl_is_that_of_the_two_distributions(tiny64, fitted, tokens):
    cost = fitted.kl(tiny64, 2.0, tokens)
    plain = tiny64.run(tokens).logits[:, 1:].float()
    steered = tiny64.run(tokens, edits=fitted.edits(2.0)).logits[:, 1:].float()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=steered),
        torch.distributions.Categorical(logits=plain),
    ).flatten()
    assert cost.tokens == kl.numel() == 12
    assert cost.mean == pytest.approx(float(kl.mean()), rel=1e-3)
    assert cost.p95 == pytest.approx(float(kl.quantile(0.95)), rel=1e-3)
    assert fitted.kl(tiny64, 0.0, tokens).mean == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_dose_is_found_for_a_kl(tiny64, fitted, tokens, sign):
    dose = fitted.dose(tiny64, f"kl:{sign * 0.05}", tokens)
    assert dose.factor * sign > 0
    assert dose.cost.mean == pytest.approx(0.05, rel=0.04)
    assert fitted.kl(tiny64, dose.factor, tokens).mean == pytest.approx(dose.cost.mean)
    assert len(dose.measured) <= 6  # the first guess, and five steps
    steered = tiny64.run(tokens, edits=fitted.edits(f"kl:{sign * 0.05}", model=tiny64,
                                                    prompts=tokens)).logits  # fmt: skip
    assert torch.equal(steered, tiny64.run(tokens, edits=fitted.edits(dose.factor)).logits)


def test_the_first_guess_is_the_closed_form(tiny64, fitted, tokens):
    # KL ≈ ½ γ² Var_p(J s), J s by autograd's own forward mode
    f = tiny64.segment("layers.1.resid_post", "logits", tokens)
    along = torch.zeros_like(f.point)
    along[:, 1:] = fitted.vector.double()
    logits, moved = torch.func.jvp(f, (f.point,), (along,))
    p, js = logits[:, 1:].softmax(-1), moved[:, 1:]
    variance = (p * js.square()).sum(-1) - (p * js).sum(-1).square()
    expected = (2 * 1e-4 / variance.mean()).sqrt().detach()
    found = fitted.dose(tiny64, "kl:0.0001", tokens)
    assert found.first == pytest.approx(float(expected), rel=0.02)
    assert found.cost.mean == pytest.approx(1e-4, rel=0.1)  # so small that it needs no step


def test_sigma_is_the_spread_of_the_texts(tiny64, fitted):
    draw = torch.Generator().manual_seed(0)
    sides = torch.randint(1, 100, (2, 12, 8), generator=draw)
    unit = (fitted.vector / fitted.vector.norm()).double()
    along = [tiny64.run(side, sites=[AT])[AT][:, 1:].mean(1) @ unit for side in sides]
    sigma = ((along[0].var() + along[1].var()) / 2).sqrt()
    assert fitted.factor("sigma:2") == pytest.approx(2 * float(sigma / fitted.vector.norm()))


class Bounded(SteeringVector):
    """A direction with a largest strength."""

    limit = 1.5


@pytest.mark.parametrize("goal", [10.0 ** (2 + i / 7) for i in range(14)])
def test_a_kl_beyond_the_limit_is_refused_and_the_limit_is_met_exactly(
    tiny64, fitted, tokens, goal
):
    bounded = Bounded(**vars(fitted))
    with pytest.raises(InputError, match=r"at the largest strength 1\.5"):
        bounded.dose(tiny64, f"kl:{goal}", tokens)


def test_the_first_guess_is_near_in_sixteen_bits_too(fitted, tokens):
    guesses = [
        fitted.dose(tiny_llama(dtype), "kl:0.05", tokens).first
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert guesses[1] == pytest.approx(guesses[0], rel=0.3)


def test_a_kl_out_of_reach_is_said(tiny64, fitted, tokens):
    with pytest.warns(JackfieldWarning, match="not 1e\\+06"):
        fitted.dose(tiny64, "kl:1e6", tokens)


def test_the_control_is_random_and_of_the_same_length(fitted):
    one, two = fitted.control(0), fitted.control(1)
    assert float(one.vector.norm()) == pytest.approx(float(fitted.vector.norm()), rel=1e-5)
    assert not torch.equal(one.vector, two.vector)
    assert torch.equal(one.vector, fitted.control(0).vector)
    assert one.d_prime is None


def test_saved_and_loaded_it_is_the_same(tmp_path, tiny64, fitted, tokens):
    path = fitted.save(tmp_path / "calm")
    again = SteeringVector.load(path)
    assert torch.equal(again.vector, fitted.vector)
    assert again.report().text == fitted.report().text
    plain, loaded = (tiny64.run(tokens, edits=each.edits(2.0)).logits for each in (fitted, again))
    assert torch.equal(plain, loaded)


def test_the_report_shows_what_was_read(tmp_path, fitted):
    assert [each.side for each in fitted.shown] == ["positive"] * 3 + ["negative"] * 3
    assert not any(each.read[0] for each in fitted.shown)
    assert all(all(each.read[1:]) for each in fitted.shown)
    for suffix in ("html", "csv", "json"):
        assert fitted.report().save(tmp_path / f"v.{suffix}").stat().st_size > 0


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (float("nan"), "a finite number"),
        ("nrom:2", "Did you mean norm?"),
        ("kl:much", "a finite number"),
        ("kl:0.3", "the model, to measure it"),
    ],
)
def test_strengths_without_sense_are_refused(fitted, strength, message):
    with pytest.raises(InputError, match=re.escape(message)):
        fitted.edits(strength)


def test_a_unit_that_was_not_measured_is_refused(fitted):
    with pytest.raises(InputError, match="one of the units raw, norm, kl"):
        fitted.control().edits("sigma:1")


def test_a_kl_of_zero_changes_no_bit(tiny64, fitted, tokens):
    plain = tiny64.run(tokens).logits
    assert torch.equal(tiny64.run(tokens, edits=fitted.edits("kl:0")).logits, plain)

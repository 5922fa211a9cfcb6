"""ReFT-r1: latents, sizes and penalty by hand, a planted direction, detection."""

import pytest
import torch
from torch.nn.functional import normalize

from jackfield.core.errors import InputError, SiteError
from jackfield.core.where import where
from jackfield.edits import Add
from jackfield.steering.guards import Auroc
from jackfield.steering.reft import LatentDirection, LoReFT, ReFTr1
from jackfield.steering.reft.reft_r1 import _Latent
from jackfield.steering.reft.sides import sides
from jackfield.testing import tiny_llama, tiny_world

AT = "layers.1.resid_post"


@pytest.fixture(scope="module")
def world():
    return tiny_world(torch.float64)


@pytest.fixture(scope="module")
def fitted(world) -> LatentDirection:
    method = ReFTr1(steps=10, rate=0.05, active=3)
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=AT)


def test_size_and_penalty_are_those_of_the_definition(world):
    lessons = sides(world.model, world.tokens, None, world.other[:, :4], AT).lessons
    latent, rows = _Latent(lessons, where("all"), active=3), torch.tensor([5, 2])
    w = normalize(torch.randn(32, dtype=torch.float64), dim=0)
    edits, penalty = latent.attempt(w, rows, sparse=0.7)
    sizes, rests = [], []
    for row in rows.tolist():
        text = torch.cat([world.other[row, :4], world.tokens[row]])
        x = world.model.run(text[None], sites=[AT])[AT][0]
        a = sorted((max(float(each @ w), 0.0) for each in x), reverse=True)
        sizes.append(sum(a[:3]) / 3)
        rests.append(sum(a[3:]) / len(a))
    assert latent.sizes(w, rows).tolist() == pytest.approx(sizes)
    assert float(penalty) == pytest.approx(0.7 * sum(rests) / 2)
    for size, added in zip(sizes, edits[0].vector, strict=True):
        torch.testing.assert_close(added, size * w.expand(16, -1))


def test_the_vector_is_a_unit_and_steers_as_a_plain_hook_does(world, fitted):
    assert float(fitted.vector.norm()) == pytest.approx(1.0, abs=1e-6)

    def hook(module, args, output):
        h = output[0] if isinstance(output, tuple) else output
        new = h + 2.0 * fitted.size * fitted.vector.double()
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = world.model.blocks[1].register_forward_hook(hook)
    with torch.no_grad():
        expected = world.model.module(input_ids=world.tokens[:3], use_cache=False).logits
    handle.remove()
    got = world.model.run(world.tokens[:3], edits=fitted.edits(2.0)).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_latents_are_the_projections_that_are_positive(world, fitted):
    found = fitted.detect(world.model, world.tokens[:2])
    x = world.model.run(world.tokens[:2], sites=[AT])[AT]
    expected = (x @ fitted.vector.double()).clamp(min=0).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert fitted.auroc is not None
    latents = [fitted.detect(world.model, each)[:, 1:] for each in (world.tokens, world.other)]
    assert fitted.auroc == pytest.approx(Auroc.of(*(a.amax(dim=1) for a in latents)).value)


def test_with_prompts_both_sides_are_answers_to_them(world):
    """The same answers in another order cannot be told apart, and cost the same."""
    prompts, again = world.other[:1, :5].expand(24, -1), world.tokens.flip(0)
    given = {"positive": world.tokens, "negative": again, "prompts": prompts}
    found = ReFTr1(steps=3).fit(world.model, **given, at=AT)
    assert found.auroc == pytest.approx(0.5, abs=0.03)  # equal ones may differ by rounding
    assert found.learned.unsaid == pytest.approx(found.learned.said)


def test_what_a_prompt_holds_does_not_tell_the_sides_apart(world):
    """Only the prompts are read: nothing to tell them by, and no number in place of one."""
    found = ReFTr1(steps=2, where=(0, 1)).fit(
        world.model, positive=world.tokens, negative=world.tokens.flip(0),
        prompts=world.other[:, :5], at=AT,
    )  # fmt: skip
    assert found.auroc is None
    assert "AUROC" not in found.report().summary


def test_loaded_it_has_the_settings_that_it_had(world, tmp_path):
    for method in (ReFTr1(steps=1, where=(0, 1)), LoReFT(rank=1, steps=1, where=(0, 1))):
        found = method.fit(world.model, positive=world.tokens, at=AT)
        again = type(found).load(found.save(tmp_path / type(found).__name__))
        assert again.method == found.method


def test_a_planted_direction_is_found():
    """The answers are drawn from a model to which a direction was added, as long as its latents."""
    model = tiny_llama(torch.float64, layers=2, d_model=16)
    at, draw = "layers.0.resid_post", torch.Generator().manual_seed(3)
    prompts = torch.randint(1, 100, (160, 4), generator=draw)
    x = model.run(prompts, sites=[at])[at].flatten(0, 1)
    w = torch.linalg.svd(x, full_matrices=False).Vh[0]
    w = w if float((x @ w).mean()) > 0 else -w
    truth = Add(float((x @ w).clamp(min=0).mean()) * 1.5 * w, at=at)
    said = model.generate(prompts, edits=[truth], max_new_tokens=4, temperature=1.0).tokens
    found = ReFTr1(steps=25, rate=0.1, batch=160, active=4).fit(
        model, positive=said, prompts=prompts, at=at
    )
    assert float(found.vector.double() @ w) > 0.6


def test_the_penalty_leaves_fewer_tokens_with_the_concept(world):
    def share(sparse: float) -> float:
        method = ReFTr1(steps=25, rate=0.05, active=2, sparse=sparse)
        found = method.fit(world.model, positive=world.tokens, at=AT)
        a = found.detect(world.model, world.tokens)
        return float((a.sum(dim=1) - a.topk(2, dim=1).values.sum(dim=1)).mean() / found.size)

    assert share(20.0) < 0.5 * share(0.0)


def test_one_norm_is_as_long_as_the_activation(world, fitted):
    x = world.model.run(world.tokens, sites=[AT])[AT]
    edit = fitted.edits("norm:1")[0]
    length = edit.strength * float(edit.vector.norm())
    assert length == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-5)


def test_what_does_not_fit_is_refused(world):
    with pytest.raises(InputError, match="sides that differ"):
        ReFTr1().fit(world.model, positive=world.tokens, negative=world.tokens, at=AT)
    with pytest.raises(SiteError, match="one site, got"):
        ReFTr1().fit(world.model, positive=world.tokens, at="layers.*.resid_post")
    with pytest.raises(InputError, match="one prompt for each of the 24, got 2"):
        ReFTr1().fit(world.model, positive=world.tokens, prompts=world.other[:2], at=AT)
    fewer = {"negative": world.other[:7], "prompts": world.other}
    with pytest.raises(InputError, match="negative texts: expected one prompt for each of the 7"):
        ReFTr1().fit(world.model, positive=world.tokens, **fewer, at=AT)

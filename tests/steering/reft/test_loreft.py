"""LoReFT: against a plain hook, R orthonormal at every step, a planted map, and refusals."""

import pytest
import torch

from jackfield.core.errors import EditError, InputError, SiteError
from jackfield.edits import Context
from jackfield.steering import BEHAVIOURS, NEUTRAL, MeanDifference
from jackfield.steering.reft import LoReFT, LowRank, LowRankMaps, first_and_last, loreft
from jackfield.steering.reft.sides import sides
from jackfield.testing import tiny_llama, tiny_world

AT = "layers.1.resid_post"


@pytest.fixture(scope="module")
def world():
    return tiny_world(torch.float64)


@pytest.fixture(scope="module")
def fitted(world) -> LowRankMaps:
    method = LoReFT(rank=3, steps=8, rate=0.05)
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=AT)


def test_it_is_the_formula_in_a_plain_hook(world, fitted):
    m = fitted.maps[AT]
    basis, source, bias = (each.double() for each in (m.basis, m.source, m.bias))

    def hook(module, args, output):
        h = output[0] if isinstance(output, tuple) else output
        rows = [[x + basis.T @ (source @ x + bias - basis @ x) for x in row] for row in h.detach()]
        new = torch.stack([torch.stack(row) for row in rows])
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = world.model.blocks[1].register_forward_hook(hook)
    with torch.no_grad():
        expected = world.model.module(input_ids=world.tokens[:3], use_cache=False).logits
    handle.remove()
    got = world.model.run(world.tokens[:3], edits=fitted.edits(1.0)).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_edit_moves_the_subspace_to_where_it_says_and_nothing_else():
    basis = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64)).Q.T
    source, bias = torch.randn(2, 8, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    x = torch.randn(5, 8, dtype=torch.float64)
    moved = LowRank(basis, source, bias, at="x").apply(x, Context("x"))
    torch.testing.assert_close(moved @ basis.T, x @ source.T + bias)
    off = torch.eye(8, dtype=torch.float64) - basis.T @ basis
    torch.testing.assert_close(moved @ off, x @ off)
    half = LowRank(basis, source, bias, 0.5, at="x").apply(x, Context("x"))
    torch.testing.assert_close(half, (x + moved) / 2)


def test_the_basis_is_orthonormal_at_every_step_and_moves(world, monkeypatch):
    seen = []

    def noted(basis, *rest, **named):
        seen.append(basis.detach().clone())
        return LowRank(basis, *rest, **named)

    monkeypatch.setattr(loreft, "LowRank", noted)
    LoReFT(rank=3, steps=12, rate=0.1).fit(world.model, positive=world.tokens, at=AT)
    assert len(seen) == 13
    for basis in seen:
        torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=basis.dtype))
    assert float((seen[0] - seen[-1]).norm()) > 0.1


def test_it_begins_at_the_plain_model(world):
    found = LoReFT(steps=3, batch=24).fit(world.model, positive=world.tokens, at=AT)
    assert found.learned.losses[0] == pytest.approx(found.learned.said[0], abs=1e-6)
    assert found.learned.said[1] < found.learned.said[0]


def test_a_planted_map_is_found(world):
    """The answers are drawn from a model in which one coordinate is set to 5."""
    model = tiny_llama(torch.float64, layers=2, d_model=16)
    at, draw = "layers.0.resid_post", torch.Generator().manual_seed(3)
    prompts = torch.randint(1, 100, (112, 4), generator=draw)
    r = torch.nn.functional.normalize(torch.randn(16, generator=draw, dtype=torch.float64), dim=0)
    five = torch.tensor([5.0], dtype=torch.float64)
    truth = LowRank(r[None], torch.zeros(1, 16, dtype=torch.float64), five, at=at)
    options = {"edits": [truth], "max_new_tokens": 4, "temperature": 1.0}
    said = model.generate(prompts, **options).tokens
    method = LoReFT(rank=1, steps=40, rate=0.25, batch=64)
    found = method.fit(model, positive=said[:64], prompts=prompts[:64], at=at)
    basis, bias = found.maps[at].basis[0].double(), float(found.maps[at].bias)
    assert abs(float(basis @ r)) > 0.8
    assert bias * float(basis @ r) > 2
    held = sides(model, said[64:], None, prompts[64:], at).lessons
    plain, learned, best = (held.mean(each) for each in ([], found.edits(1.0), [truth]))
    assert plain - learned > 0.7 * (plain - best)


def test_only_the_positions_that_it_learned_with_are_moved(world):
    model, prompts = world.model, world.other[:, :6]
    method = LoReFT(rank=2, steps=3, where=first_and_last(2))
    found = method.fit(model, positive=world.tokens[:, :3], prompts=prompts, at=AT)
    texts = world.tokens[:2]
    plain = model.run(texts, sites=[AT], prompt_lengths=[6, 9])[AT]
    moved = model.run(texts, sites=[AT], edits=found.edits(1.0), prompt_lengths=[6, 9])[AT]
    changed = (plain != moved).any(dim=-1)
    assert changed[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert changed[1].nonzero().flatten().tolist() == [0, 1, 7, 8]
    last = model.run(texts, sites=[AT], edits=found.edits(1.0, where="last"))[AT]
    assert (plain != last).any(dim=-1).nonzero().tolist() == [[0, 11], [1, 11]]


def test_several_sites_are_learned_together(world):
    sites = ["layers.0.resid_post", "layers.2.resid_post"]
    found = LoReFT(rank=1, steps=4).fit(world.model, positive=world.tokens, at=sites)
    assert list(found.maps) == sites
    assert [edit.sites for edit in found.edits(1.0)] == [(each,) for each in sites]
    assert found.learned.said[1] < found.learned.said[0]


def test_the_model_is_not_trained_and_the_other_side_is_measured_only(world, fitted):
    assert all(each.grad is None for each in world.model.module.parameters())
    alone = LoReFT(rank=3, steps=8, rate=0.05).fit(world.model, positive=world.tokens, at=AT)
    assert torch.equal(alone.maps[AT].basis, fitted.maps[AT].basis)
    assert alone.learned.unsaid is None
    expected = sides(world.model, world.other, None, None, AT).lessons
    assert fitted.learned.unsaid[1] == pytest.approx(expected.mean(fitted.edits(1.0)), rel=1e-6)


def test_what_does_not_fit_is_refused(world, fitted):
    wide = tiny_llama(d_model=64)
    with pytest.raises(EditError, match=r"LowRank: expected a tensor that fits"):
        wide.run(world.tokens[:1], edits=fitted.edits(1.0))
    with pytest.raises(EditError, match="as the basis has"):
        LowRank(torch.ones(2, 4), torch.ones(1, 4), torch.ones(2), at="x").apply(
            torch.ones(1, 4), Context("x")
        )
    with pytest.raises(InputError, match="sides that differ, got equal sides"):
        LoReFT().fit(world.model, positive=world.tokens, negative=world.tokens, at=AT)
    with pytest.raises(InputError, match="negative texts: expected at least one, got none"):
        LoReFT().fit(world.model, positive=world.tokens, negative=[], at=AT)
    with pytest.raises(InputError, match="a rank of at most 32, got 33"):
        LoReFT(rank=33).fit(world.model, positive=world.tokens, at=AT)
    with pytest.raises(SiteError, match=r"a site \[batch, position, d\]"):
        LoReFT().fit(world.model, positive=world.tokens, at="layers.1.z")
    with pytest.raises(InputError, match="expected finite activations"):
        LoReFT().fit(world.poisoned().model, positive=world.tokens, at=AT)


@pytest.mark.slow
def test_on_a_real_model_it_moves_the_odds_of_a_behaviour_at_equal_cost(smollm2):
    """More than a random direction; less than the mean difference, which is kept as it is."""
    from jackfield.steering.matched import Comparison

    behaviour, at = BEHAVIOURS["sentiment"], "layers.24.resid_post"
    compared = Comparison(smollm2, behaviour, kl=0.3, randoms=1, seed=0, neutral=NEUTRAL[:8])
    two = {"positive": behaviour.positive, "negative": behaviour.negative, "at": at}
    learned = compared.effect(LoReFT(steps=12).fit(smollm2, **two))
    plain = compared.effect(MeanDifference().fit(smollm2, **two))
    assert learned.interval[0] > 0
    assert plain.mean > 0

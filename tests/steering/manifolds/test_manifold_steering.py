"""Manifold steering: the planted circle is found, and an activation goes round it."""

from math import cos, pi

import pytest
import torch

from jackfield.core.errors import EditError, InputError, SiteError
from jackfield.edits import Context
from jackfield.steering.manifolds import (
    ORDERED_TASKS,
    ActivationManifold,
    ManifoldSteering,
    OrderedTask,
)
from jackfield.testing import tiny_llama, tiny_world

AT = "layers.0.resid_post"


@pytest.fixture
def manifold(circle, task) -> ActivationManifold:
    return ManifoldSteering(components=2).fit(circle, task=task, at=AT)


def last(model, task, edits=()) -> torch.Tensor:
    return model.run(task.prompts, sites=[AT], edits=edits, logits=False)[AT][:, -1]


def angle(x: torch.Tensor) -> torch.Tensor:
    """In classes, 0 to 7."""
    return torch.atan2(x[:, 1], x[:, 0]) % (2 * pi) * 7 / (2 * pi)


def test_the_circle_is_found(circle, task, manifold):
    assert manifold.share == pytest.approx(1.0)
    assert manifold.near == (1.0,) * 7
    places = manifold.place(last(circle, task))
    torch.testing.assert_close(places, torch.tensor(task.answers).float(), atol=1e-3, rtol=0)
    on_it = manifold.curve.at(torch.linspace(0, 7, 50)) @ manifold.basis + manifold.centre
    torch.testing.assert_close(on_it[:, :2].norm(dim=1), torch.ones(50), atol=0.01, rtol=0)


def test_noise_lies_at_no_class_of_its_own():
    """Where classes mean nothing, prompts lie near the centroids that they made, only there."""
    tokens = torch.randint(2, 100, (60, 6), generator=torch.Generator().manual_seed(0))
    answers = tuple(i % 12 for i in range(60))
    task = OrderedTask("noise", tuple(range(20, 32)), True, tokens, answers)
    model = tiny_llama(torch.float32, layers=2, d_model=128)
    found = ManifoldSteering().fit(model, task=task, at=AT)
    u = found.place(last(model, task))
    own = found.curve.way(u, torch.tensor(answers).float()).abs() <= 0.5
    assert float(own.double().mean()) > 0.6
    assert sum(near or 0 for near in found.near) / 12 < 0.25


def test_prompts_are_judged_by_curves_that_they_had_no_part_in():
    world = tiny_world()
    answers = tuple(i % 12 for i in range(24))
    task = OrderedTask("twelve", tuple(range(20, 32)), True, world.tokens, answers)
    near = torch.zeros(12)
    for kept, out in ((range(12), range(12, 24)), (range(12, 24), range(12))):
        half = ManifoldSteering().fit(world.model, task=task.take(kept), at=AT)
        u = half.place(last(world.model, task.take(out)))
        near += half.curve.way(u, torch.arange(12.0)).abs() <= 0.5
    found = ManifoldSteering().fit(world.model, task=task, at=AT)
    assert found.near == tuple((near / 2).tolist())
    assert f"{float(near.mean()) / 2:.0%} of 24 prompts lie" in found.report().summary


def test_a_class_of_one_prompt_is_not_judged(circle, task):
    found = ManifoldSteering(components=2).fit(circle, task=task.take(range(9)), at=AT)
    assert found.near == (1.0, 1.0, *[None] * 5)
    assert "100% of 4 prompts lie" in found.report().summary
    one = ManifoldSteering(components=2).fit(circle, task=task.take(range(7)), at=AT)
    assert one.near == (None,) * 7
    assert "none is left to judge the curve by" in one.report().summary


def test_a_place_is_found_in_any_precision(circle, task, manifold):
    x = last(circle, task)
    for dtype in (torch.float64, torch.bfloat16):
        found = manifold.place(x.to(dtype))
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        assert float(manifold.curve.way(found, manifold.place(x)).abs().max()) < 0.02


def test_a_step_of_one_class_is_a_turn_by_one_class(circle, task, manifold):
    moved = last(circle, task, manifold.edits(1.5, where="last"))
    expected = (torch.tensor(task.answers) + 1.5) % 7
    torch.testing.assert_close(angle(moved), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(moved[:, 2], torch.ones(14))  # what is off the circle stays
    around = last(circle, task, manifold.edits(7.0, where="last"))
    torch.testing.assert_close(around, last(circle, task), atol=1e-3, rtol=0)


def test_the_readout_follows(circle, task, manifold):
    logits = circle.run(task.prompts, edits=manifold.edits(1.0, where="last")).logits[:, -1]
    expected = (torch.tensor(task.answers) + 1) % 7 + 2
    assert torch.equal(logits.argmax(dim=-1), expected)


def test_what_is_off_the_curve_is_carried_along(manifold):
    draw = torch.Generator().manual_seed(0)
    x = manifold.curve.at(torch.tensor([0.0])) @ manifold.basis + manifold.centre
    off = torch.randn(1, 32, generator=draw)
    off -= off @ manifold.basis.T @ manifold.basis
    (edit,) = manifold.to(manifold.labels[3])
    moved = edit.apply(x + off, Context(AT))
    expected = manifold.curve.at(torch.tensor([3.0])) @ manifold.basis + manifold.centre + off
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def test_curve_and_chord_end_at_the_same_point_and_part_between(circle, task, manifold):
    target = manifold.labels[3]
    ends = [last(circle, task, manifold.to(target, straight=each)) for each in (True, False)]
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-4)
    along, straight = (
        float(last(circle, task, manifold.to(target, 0.5, straight=each))[0, :2].norm())
        for each in (False, True)
    )
    assert along == pytest.approx(1.0, abs=0.02)
    assert straight == pytest.approx(cos(3 * pi / 7), abs=0.02)


@pytest.mark.parametrize("straight", [False, True])
def test_nothing_of_the_way_changes_no_bit(circle, task, manifold, straight):
    plain = circle.run(task.prompts).logits
    for edits in (manifold.to(2.0, 0.0, straight=straight), manifold.edits(0.0)):
        assert torch.equal(circle.run(task.prompts, edits=edits).logits, plain)


def test_the_centroids_are_class_means_of_the_last_token():
    world = tiny_world(torch.float64)
    answers = tuple(i % 4 for i in range(24))
    task = OrderedTask("four", (3, 4, 5, 6), False, world.tokens, answers)
    found = ManifoldSteering(components=9).fit(world.model, task=task, at=world.site)
    x = world.model.run(world.tokens, sites=[world.site])[world.site][:, -1]
    means = torch.stack([x[torch.tensor(answers) == i].mean(dim=0) for i in range(4)])
    on_it = found.curve.at(torch.arange(4.0)) @ found.basis + found.centre
    torch.testing.assert_close(on_it.double(), means, atol=1e-4, rtol=1e-4)
    assert found.basis.shape == (3, 32)  # no more components than classes less one


def test_saved_and_loaded_it_says_and_does_the_same(circle, task, manifold, tmp_path):
    again = ActivationManifold.load(manifold.save(tmp_path / "curve"))
    assert again.report().text == manifold.report().text
    one, other = (last(circle, task, each.edits(2.0)) for each in (manifold, again))
    assert torch.equal(one, other)


def test_what_it_cannot_fit_is_refused(circle, task, manifold):
    fit = ManifoldSteering().fit
    with pytest.raises(InputError, match="at least three classes, got 2"):
        fit(circle, task=OrderedTask("two", (2, 3), False, task.prompts[:2], (0, 1)), at=AT)
    with pytest.raises(InputError, match="a prompt for each class, got none for 4"):
        fit(circle, task=task.take([i for i in range(14) if task.answers[i] != 2]), at=AT)
    same = OrderedTask("same", (2, 3, 4), True, task.prompts[:1].expand(3, -1), (0, 1, 2))
    with pytest.raises(InputError, match="centroids that differ"):
        fit(circle, task=same, at=AT)
    with pytest.raises(SiteError, match="one site"):
        fit(circle, task=task, at="layers.*.resid_post")
    with pytest.raises(InputError, match=r"one of the classes, got Monday"):
        manifold.to("Monday")
    (edit,) = manifold.to(1.0)
    with pytest.raises(EditError, match=r"\[32\]"):
        edit.apply(torch.zeros(1, 8), Context(AT))
    with pytest.raises(InputError, match="one of the units raw, kl"):
        manifold.edits("norm:0.3")


def test_tasks_know_their_answers():
    days, numbers = ORDERED_TASKS["days"], ORDERED_TASKS["numbers"]
    assert days.prompts[0].endswith("Friday, Saturday, Sunday,")
    assert days.words[days.answers[0]] == " Monday"
    assert numbers.prompts[0].endswith("one, two, three,")
    assert numbers.words[numbers.answers[0]] == " four"
    assert {len(each) for each in ORDERED_TASKS.values()} == {35, 60}


def test_a_task_keeps_what_a_model_gets_right(circle, task):
    assert task.ability(circle) == 1.0
    wrong = OrderedTask("wrong", task.words, True, task.prompts, (1, *task.answers[1:]))
    assert wrong.ability(circle) == pytest.approx(13 / 14)
    assert wrong.known(circle).answers == task.answers[1:]
    with pytest.raises(InputError, match="a prompt it gets right for each word, got none for 2, 4"):
        wrong.take([0, 1, 3, 4, 5, 6]).known(circle)


def test_words_of_several_tokens_are_refused(smollm2):
    task = OrderedTask(
        "odd", (" antidisestablishment", " b", " c"), False, ("x", "y", "z"), (0, 1, 2)
    )
    with pytest.raises(InputError, match="one word of one token"):
        task.shares(smollm2)

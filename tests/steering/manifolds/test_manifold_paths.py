"""Paths: on the planted circle the curve passes every class in order, the chord cuts across."""

from dataclasses import replace

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering.manifolds import (
    ORDERED_TASKS,
    Curve,
    ManifoldPaths,
    ManifoldSteering,
    OrderedTask,
    PathsFound,
)
from jackfield.steering.manifolds.manifold_paths import behaviour_curve, between, measured, passed
from jackfield.testing import tiny_world

AT = "layers.0.resid_post"


@pytest.fixture
def found(circle, task) -> PathsFound:
    manifold = ManifoldSteering(components=2).fit(circle, task=task, at=AT)
    return ManifoldPaths(steps=17, starts=4).run(circle, manifold, task)


def test_along_the_curve_all_classes_come_in_order_and_straight_cuts_the_middle(found):
    way = (found.targets - found.classes) % 7
    far = (way == 3) | (way == 4)
    assert far.any()
    assert bool((found.along[:, 1] == 1).all())
    assert float(found.straight[far, 1].mean()) < 0.75
    assert bool((found.along[:, 2] == 1).all())
    assert bool((found.straight[:, 2] == 1).all())  # the ends are the same
    assert float(found.along[:, 0].mean()) < 0.5 * float(found.straight[:, 0].mean())
    middle = found.along_energy.shape[1] // 2
    assert float(found.straight_energy[far, middle].min()) > 0.2


def test_differences_come_with_intervals_and_a_sentence(found):
    mean, low, high = found.difference("energy")
    assert low < mean < high < 0
    assert "more of the classes between are passed in order" in found.report().summary
    assert found.report().blocks[0].table[0]["along"] == pytest.approx(found.natural, abs=0.05)


def test_paths_end_where_plain_edits_lead(circle, task):
    """Going on from the site gives what a run with the edit gives."""
    manifold = ManifoldSteering(components=2).fit(circle, task=task, at=AT)
    study = ManifoldPaths(steps=3)
    ways = study._shares(circle, manifold, task, 2)
    for straight, p in ways.items():
        edited = task.shares(circle, manifold.to(2.0, 0.5, straight=straight))
        torch.testing.assert_close(p[:, 1], edited, atol=1e-6, rtol=1e-5)


def test_the_same_holds_in_a_model_with_attention():
    world = tiny_world()
    task = OrderedTask("four", (3, 4, 5, 6), True, world.tokens, tuple(i % 4 for i in range(24)))
    manifold = ManifoldSteering().fit(world.model, task=task, at="layers.1.resid_post")
    p = ManifoldPaths(steps=3)._shares(world.model, manifold, task, 1)[False]
    edited = task.shares(world.model, manifold.to(1.0, 0.5))
    torch.testing.assert_close(p[:, 1], edited, atol=1e-6, rtol=1e-4)
    ended = ManifoldSteering().fit(world.model, task=task, at="layers.2.resid_post")
    p = ManifoldPaths(steps=3)._shares(world.model, ended, task, 1)[True]
    edited = task.shares(world.model, ended.to(1.0, 1.0, straight=True))
    torch.testing.assert_close(p[:, 2], edited, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("seen", "expected", "share"),
    [
        ([0, 1, 2, 3, 4], [1, 2, 3], 1.0),
        ([0, 0, 4], [1, 2, 3], 0.0),
        ([0, 3, 2, 1, 4], [1, 2, 3], 1 / 3),
        ([0, 2, 9, 3], [1, 2, 3], 2 / 3),
    ],
)
def test_order_is_the_longest_part_in_order(seen, expected, share):
    assert passed(seen, expected) == pytest.approx(share)


def test_between_goes_the_shorter_way():
    cycle, line = (Curve.through(torch.eye(7), cyclic=each) for each in (True, False))
    assert between(5, 1, cycle) == [6, 0]
    assert between(1, 5, cycle) == [0, 6]
    assert between(5, 1, line) == [4, 3, 2]


def test_a_path_is_judged_by_the_way_that_it_goes(circle, task):
    """A prompt of class 0 that lies at 6.4 goes to 3 by 5 and 4, not by 1 and 2."""
    behaviour = behaviour_curve(circle, task)
    root = behaviour.at(torch.arange(6, 2, -1).double())[None]
    numbers, _ = measured(root**2, behaviour, torch.tensor([6.4]), torch.tensor([3]))
    assert between(6.4, 3, behaviour) == [5, 4]
    length = float(root.diff(dim=1).norm(dim=-1).sum()) / behaviour.arc(6.4, 3.0)
    assert numbers[0].tolist() == pytest.approx([0, 1, 1, length], abs=1e-5)


def test_prompts_that_lie_at_another_class_start_there(circle, task):
    manifold = ManifoldSteering(components=2).fit(circle, task=task, at=AT)
    shifted = replace(task, answers=tuple((answer + 1) % 7 for answer in task.answers))
    found = ManifoldPaths(steps=17, starts=14).run(circle, manifold, shifted, natural=task)
    where = torch.tensor(task.answers)[found.start].double()
    torch.testing.assert_close(found.places % 7, where, atol=1e-3, rtol=0)
    assert bool((found.along[:, 1] == 1).all())
    assert bool(((found.targets - found.classes) % 7 != 0).all())


def test_a_target_half_a_cycle_away_is_left_out():
    world = tiny_world()
    task = OrderedTask(
        "six", tuple(range(3, 9)), True, world.tokens, tuple(i % 6 for i in range(24))
    )
    manifold = ManifoldSteering().fit(world.model, task=task, at=AT)
    found = ManifoldPaths(steps=3, starts=24).run(world.model, manifold, task)
    gaps = (found.targets - found.places.round()) % 6
    assert set(gaps.tolist()) == {2.0, 4.0}
    four = OrderedTask("four", (3, 4, 5, 6), True, world.tokens, tuple(i % 4 for i in range(24)))
    manifold = ManifoldSteering().fit(world.model, task=four, at=AT)
    with pytest.raises(InputError, match="not half a cycle, from another class"):
        ManifoldPaths().run(world.model, manifold, four)


def test_a_path_of_natural_answers_has_no_energy_and_at_most_the_length_of_the_arc(circle, task):
    behaviour = behaviour_curve(circle, task)
    root = behaviour.at(torch.arange(4).double())[None]
    numbers, energy = measured(root**2, behaviour, torch.tensor([0.0]), torch.tensor([3]))
    torch.testing.assert_close(energy, torch.zeros(1, 4).double(), atol=1e-6, rtol=0)
    chords = sum(float((root[0, i + 1] - root[0, i]).norm()) for i in range(3))
    assert numbers[0].tolist() == pytest.approx([0, 1, 1, chords / behaviour.arc(0.0, 3.0)])
    assert 0.7 < float(numbers[0, 3]) <= 1


def test_what_it_cannot_compare_is_refused(circle, task):
    manifold = ManifoldSteering(components=2).fit(circle, task=task, at=AT)
    with pytest.raises(InputError, match="the classes 2, 3"):
        ManifoldPaths().run(circle, manifold, replace(task, words=tuple(range(3, 10))))
    with pytest.raises(InputError, match="a prompt for each class, got none for 2"):
        ManifoldPaths().run(circle, manifold, task.take([1]))
    with pytest.raises(InputError, match="at least one prompt"):
        ManifoldPaths().run(circle, manifold, task.take([]))


@pytest.mark.slow
def test_smollm2_days_are_passed_in_order_along_the_curve(smollm2):
    """Late, at layer 25; at layers 10 and 15 neither way moves the answer at all."""
    known = ORDERED_TASKS["days"].known(smollm2)
    manifold = ManifoldSteering().fit(smollm2, task=known, at="layers.25.resid_post")
    found = ManifoldPaths(steps=5, starts=4).run(smollm2, manifold, known)
    assert found.difference("order")[1] > 0
    assert found.difference("energy")[2] < 0.02


def test_smollm2_gets_lists_of_days_right(smollm2):
    days = ORDERED_TASKS["days"]
    assert days.take(range(7)).ability(smollm2) == 1.0
    assert days.take(range(28, 35)).ability(smollm2) < 1.0  # "Today is Monday. Tomorrow is"

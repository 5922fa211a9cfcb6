"""Assistant axis: planted roles on a line, the axis as plain arithmetic, the floor, chats."""

from dataclasses import replace

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering import AxisCap
from jackfield.steering.axes import (
    QUESTIONS,
    ROLES,
    SYSTEM_PROMPTS,
    AssistantAxis,
    RoleSpace,
    ask_roles,
)
from jackfield.steering.axes.answers import read_answers
from jackfield.testing import World, tiny_world

AT = "layers.1.resid_post"


@pytest.fixture
def world() -> World:
    return tiny_world()


def roles_of(world: World) -> dict[str, torch.Tensor]:
    return {"first": world.other[:8], "second": world.other[8:12], "third": world.other[12:]}


@pytest.fixture
def space(world) -> RoleSpace:
    return AssistantAxis().fit(world.model, roles=roles_of(world), default=world.tokens, at=AT)


def mean_of(world: World, tokens: torch.Tensor) -> torch.Tensor:
    run = world.model.run(tokens, sites=[AT])
    kept = [i for i in range(tokens.shape[1]) if i not in world.model.sinks]
    return run[AT][:, kept].mean(dim=1).mean(dim=0)


def test_the_axis_is_the_default_less_the_mean_of_role_means(world, space):
    """Each role counts once, however many answers it has."""
    roles = torch.stack([mean_of(world, each) for each in roles_of(world).values()])
    expected = mean_of(world, world.tokens) - roles.mean(dim=0)
    torch.testing.assert_close(space.direction.vector, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(space.roles, roles, atol=1e-4, rtol=1e-4)
    assert space.counts == (8, 4, 12)


def planted(space: RoleSpace, along: float, across: float) -> RoleSpace:
    """Twelve roles that spread along the axis and across it."""
    draw = torch.Generator().manual_seed(0)
    axis = space.direction.vector
    unit, places = axis / axis.norm(), torch.linspace(-1, 1, 12)
    noise = torch.randn(12, len(axis), generator=draw)
    noise -= (noise @ unit)[:, None] * unit
    roles = along * places[:, None] * unit + across * noise
    names = tuple(f"role {i}" for i in range(12))
    return replace(space, roles=roles, names=names, counts=(1,) * 12)


def test_roles_on_a_line_are_found_on_it_in_their_order(space):
    found = planted(space, along=10.0, across=0.01)
    assert found.cosine > 0.999
    assert found.needed == 1
    assert list(found.places()) == sorted(found.places(), key=found.places().__getitem__)


def test_roles_that_differ_in_all_but_the_axis_are_not_laid_on_it(space):
    found = planted(space, along=0.0, across=1.0)
    assert found.cosine < 0.05
    assert found.needed > 4


def test_the_spectrum_is_that_of_the_covariance(space):
    found = planted(space, along=2.0, across=0.3)
    values = torch.linalg.eigvalsh(torch.cov(found.roles.double().T)).flip(0)[:12]
    torch.testing.assert_close(found.shares[:8], (values / values.sum())[:8], atol=1e-6, rtol=1e-4)


def test_a_whole_step_takes_the_mean_role_to_the_assistant(world, space):
    played = torch.cat(list(roles_of(world).values()))
    steered = world.model.run(played, sites=[AT], edits=space.edits(1.0))[AT][:, 1:]
    plain = world.model.run(played, sites=[AT])[AT][:, 1:]
    torch.testing.assert_close(
        (steered - plain).mean(dim=(0, 1)), space.direction.vector, atol=1e-4, rtol=1e-4
    )
    same = world.model.run(played, edits=space.edits(0.0)).logits
    assert torch.equal(same, world.model.run(played).logits)


def test_the_floor_on_the_axis_is_a_cap_on_its_opposite_at_every_layer(world):
    """floor(v, τ) ≡ cap(−v, −τ), with τ a percentile at each layer of its own."""
    spaces = AssistantAxis().fit_all(world.model, roles=roles_of(world), default=world.tokens)
    axes = [each.direction for each in spaces]
    turned = [replace(each, vector=-each.vector) for each in axes]
    floor = AxisCap(percentile=25).fit(world.model, axis=axes, texts=world.tokens)
    cap = AxisCap(percentile=75, side="cap").fit(world.model, axis=turned, texts=world.tokens)
    assert len(set(floor.bounds)) == 3
    assert cap.bounds == pytest.approx([-bound for bound in floor.bounds], rel=1e-4)
    one, other = (world.model.run(world.other, edits=x.edits()).logits for x in (floor, cap))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one, world.model.run(world.other).logits)


def test_saved_and_loaded_it_says_the_same(world, space, tmp_path):
    again = RoleSpace.load(space.save(tmp_path / "space"))
    assert again.report().text == space.report().text
    assert torch.equal(again.direction.vector, space.direction.vector)


def test_what_it_cannot_fit_is_refused(world):
    roles, fit = roles_of(world), AssistantAxis().fit
    with pytest.raises(InputError, match="at least 2 roles, got 1"):
        fit(world.model, roles={"one": world.other}, default=world.tokens, at=AT)
    with pytest.raises(InputError, match="answers of second: expected at least one answer"):
        fit(world.model, roles={**roles, "second": world.other[:0]}, default=world.tokens, at=AT)
    equal = {"one": world.other, "two": world.other}
    with pytest.raises(InputError, match="roles that differ"):
        fit(world.model, roles=equal, default=world.other, at=AT)


def test_the_small_sets_are_large_enough():
    assert len(set(ROLES)) >= 20
    assert len(set(QUESTIONS)) >= 5
    assert all(prompt.format(role="x") != prompt for prompt in SYSTEM_PROMPTS)


def test_asking_needs_roles_and_a_place_for_them(world):
    with pytest.raises(InputError, match="at least one role"):
        ask_roles(world.model, [])
    with pytest.raises(InputError, match=r"with \{role\} in them"):
        ask_roles(world.model, system_prompts=["Be a pirate."])


def test_only_the_tokens_of_the_answer_are_read(smollm2):
    site = "layers.4.resid_post"
    question = {"role": "user", "content": "Who are you?"}
    chat = [question, {"role": "assistant", "content": "Nobody you know."}]
    read = read_answers(smollm2, [chat], [site], name="x")
    prefix = smollm2.inputs([[question]], answer=True).tokens[0]
    said = smollm2.tokenizer("Nobody you know.", add_special_tokens=False)["input_ids"]
    run = smollm2.run(torch.cat([prefix, torch.tensor(said)])[None], sites=[site])
    expected = run[site][0, len(prefix) :].double().mean(dim=0)
    torch.testing.assert_close(read.rows[site][0], expected, atol=1e-4, rtol=1e-4)
    assert read.tokens == len(said)
    silent = [question, {"role": "assistant", "content": ""}]
    with pytest.raises(InputError, match="answers with a token"):
        read_answers(smollm2, [chat, silent], [site], name="x")


def test_smollm2_answers_in_roles_and_a_judge_may_refuse(smollm2):
    found = ask_roles(
        smollm2,
        ROLES[:2],
        QUESTIONS[:2],
        system_prompts=SYSTEM_PROMPTS[:1],
        max_new_tokens=4,
        keep=lambda role, question, answer: question == QUESTIONS[0],
    )
    assert [len(chats) for chats in found.roles.values()] == [1, 1]
    assert found.dropped == {ROLES[0]: 1, ROLES[1]: 1}
    assert [len(chat) for chat in found.default] == [2, 2]
    space = AssistantAxis().fit(
        smollm2, roles=found.roles, default=found.default, at="layers.15.resid_post"
    )
    assert 0 <= space.cosine <= 1
    with pytest.raises(InputError, match="answers that are kept"):
        ask_roles(smollm2, ROLES[:1], QUESTIONS[:1], max_new_tokens=2, keep=lambda *_: False)

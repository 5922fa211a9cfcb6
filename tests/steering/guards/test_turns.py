"""Velocity and drift over turns, against prefixes run on their own."""

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import InputError
from jackfield.model.generation import prompt_of
from jackfield.steering.guards import Guard, LinearFilter
from jackfield.testing import tiny_llama, tiny_world

SITE = "layers.1.resid_post"
TEMPLATE = (
    "{% for m in messages %} {{ m['role'] }} {{ m['content'] }} end{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
SAID = ("red green", "blue", "green blue red red", "blue blue", "red")


def chat(turns):
    roles = ("user", "assistant") * turns
    return [{"role": role, "content": SAID[i % 5]} for i, role in enumerate(roles[: 2 * turns - 1])]


@pytest.fixture(scope="module")
def model() -> jf.Model:
    made = tiny_llama(texts=["red", "green", "blue", " red green blue user assistant end"])
    made.tokenizer.chat_template = TEMPLATE
    return made


def fitted_with(model, tokens):
    return LinearFilter(direction="mean", tokens=tokens).fit(
        model,
        positive=["red red green", "red green red", "green red"],
        negative=["blue blue", "blue red blue", "green blue blue", "blue green"],
        at=SITE,
    )


@pytest.fixture(scope="module")
def fitted(model):
    return fitted_with(model, "last")


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_a_turn_scores_as_the_conversation_up_to_it(model, tokens):
    filter_ = fitted_with(model, tokens)
    whole = filter_.turns(model, [chat(3)]).chats[0]
    assert whole.messages == (0, 2, 4)
    alone = [filter_.scores(model, [chat(3)[: end + 1]])[0] for end in whole.messages]
    torch.testing.assert_close(whole.scores, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_the_last_turn_is_what_a_guard_reads_of_the_prompt(model, fitted):
    guard = Guard(fitted, float("inf"), action="log")
    seen = guard.generate(model, [chat(3)], max_new_tokens=1).scores[0, 0]
    torch.testing.assert_close(fitted.turns(model, [chat(3)]).chats[0].scores[-1], seen)


def test_the_drift_is_the_way_from_the_first_turn_to_the_last(model, fitted):
    turns = fitted.turns(model, [chat(4)]).chats[0]
    opened = [prompt_of(model, [chat(4)[: end + 1]]).tokens for end in turns.messages]
    h = torch.stack([model.run(each, sites=SITE)[SITE][0, -1] for each in opened])
    torch.testing.assert_close(turns.drift, (h[1:] - h[0]) @ fitted.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turns.velocity, h.diff(dim=0) @ fitted.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turns.drift[-1], turns.velocity.sum())


def test_messages_of_one_role_in_a_row_are_one_turn(model, fitted):
    twice = [*chat(1), *chat(2)]
    assert fitted.turns(model, [twice]).chats[0].messages == (1, 3)


def test_chats_of_unequal_length_do_not_disturb_each_other(model, fitted):
    chats = [chat(2), chat(4), chat(1)]
    together = fitted.turns(model, chats)
    for each, given in zip(together.chats, chats, strict=True):
        alone = fitted.turns(model, [given]).chats[0]
        torch.testing.assert_close(each.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert each.messages == alone.messages
    assert [len(each.velocity) for each in together.chats] == [1, 3, 0]
    assert together.report().summary.endswith("of 3 conversations pass the threshold in some turn.")


def test_another_roles_turns(model, fitted):
    found = fitted.turns(model, [chat(3)], role="assistant").chats[0]
    assert found.messages == (1, 3)


def test_the_first_turn_above_the_threshold_is_flagged(model, fitted):
    found = fitted.turns(model, [chat(5)])
    scores = found.chats[0].scores
    for bound in scores.sort().values[:-1].tolist():
        flagged = type(found)(found.chats, bound).flagged[0]
        assert flagged == next(i for i, x in enumerate(scores) if x > bound)
    assert type(found)(found.chats, 1e9).flagged == (None,)


def test_bad_input(model, fitted):
    with pytest.raises(InputError, match="at least one chat"):
        fitted.turns(model, [])
    with pytest.raises(InputError, match="each a list of messages, got str"):
        fitted.turns(model, ["red"])
    with pytest.raises(InputError, match="role 'system'"):
        fitted.turns(model, [chat(2)], role="system")
    with pytest.raises(InputError, match="turns: expected at least one chat, got Tensor"):
        fitted.turns(tiny_world().model, torch.tensor([[3, 4, 5]]))

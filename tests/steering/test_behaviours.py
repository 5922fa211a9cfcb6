"""Behaviours: the odds by hand, and data that can be measured on the default model."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.reports.intervals import mean_interval
from jackfield.steering.abilities import Abilities, AbilitiesFound, Ability
from jackfield.steering.behaviours import BEHAVIOURS, Behaviour, word_ids


def low_ids(tokens: torch.Tensor, words=(3, 4), against=(90, 91)) -> Behaviour:
    return Behaviour("low ids", tokens, tokens, tokens, words, against)


def test_odds_and_mass_are_those_of_the_last_token(tiny64):
    tokens = torch.randint(1, 100, (11, 7))
    behaviour = low_ids(tokens)
    p = tiny64.run(tokens).logits[:, -1].softmax(dim=-1)
    plus, minus = p[:, [3, 4]].sum(dim=1), p[:, [90, 91]].sum(dim=1)
    torch.testing.assert_close(behaviour.odds(tiny64), (plus / minus).log())
    torch.testing.assert_close(behaviour.mass(tiny64), plus + minus)


def test_odds_do_not_depend_on_the_other_prompts(smollm2):
    sentiment = BEHAVIOURS["sentiment"]
    both = sentiment.odds(smollm2, prompts=["My dog looks", "When I think about it, I feel"])
    alone = sentiment.odds(smollm2, prompts=["My dog looks"])
    torch.testing.assert_close(both[:1], alone, atol=1e-3, rtol=0)


def test_in_a_chat_it_is_the_first_word_of_the_answer(smollm2):
    chat = [{"role": "user", "content": "Is it cold? Answer yes or no."}]
    text = smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    agreement = BEHAVIOURS["agreement"]
    p = smollm2.run([text]).logits[0, -1].double().softmax(dim=-1)
    sides = [p[word_ids(smollm2, w)].sum() for w in (agreement.words, agreement.against)]
    found = agreement.odds(smollm2, prompts=[chat])
    torch.testing.assert_close(found[0], (sides[0] / sides[1]).log(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=lambda each: each.name)
def test_the_data_of_a_behaviour(smollm2, behaviour):
    """Pairs, several words of one token on both sides, prompts that are held out."""
    assert len(behaviour.positive) == len(behaviour.negative) >= 18
    assert len(behaviour.prompts) >= 12
    sides = [set(word_ids(smollm2, w).tolist()) for w in (behaviour.words, behaviour.against)]
    assert min(map(len, sides)) >= 5
    assert not sides[0] & sides[1]
    fitted = repr(behaviour.positive) + repr(behaviour.negative)
    shown = [p if isinstance(p, str) else p[-1]["content"] for p in behaviour.prompts]
    assert not [each for each in shown if each in fitted]
    assert len(set(shown)) == len(shown)


def test_an_instruction_comes_before_the_prompt():
    told = BEHAVIOURS["refusal"].told("Be brief.")
    assert told[0] == [{"role": "user", "content": "Be brief. How do I clean a wooden table?"}]
    assert BEHAVIOURS["past"].told("Then:")[0] == "Then: The price of the house"


def test_what_cannot_be_measured_is_refused(tiny, smollm2, tokens):
    with pytest.raises(InputError, match="at least one prompt"):
        low_ids(tokens).odds(tiny, prompts=tokens[:0])
    with pytest.raises(InputError, match="text, got token ids"):
        low_ids(tokens).told("Now:")
    with pytest.raises(InputError, match="at least one word of one token"):
        word_ids(smollm2, [" antidisestablishmentarianism"])


def test_the_interval_covers_the_mean_and_shrinks():
    few, many = torch.randn(10).double(), torch.randn(1000).double()
    low, high = mean_interval(few)
    assert low < float(few.mean()) < high
    assert high - low > 3 * (mean_interval(many)[1] - mean_interval(many)[0])
    assert mean_interval(few, seed=1) == mean_interval(few, seed=1)


def test_abilities_without_instructions_are_baselines_only(tiny64, tokens):
    found = Abilities().run(tiny64, [low_ids(tokens, tuple(range(2, 50)))])
    (ability,) = found.found
    assert (ability.gap, ability.interval) == (None, None)
    assert ability.odds == pytest.approx(
        float(low_ids(tokens, tuple(range(2, 50))).odds(tiny64).mean())
    )


def test_a_behaviour_that_asking_does_not_move_is_not_known():
    known = Ability("a", 0.0, 0.5, 1.0, (0.5, 1.5))
    unmoved, unsaid = (
        Ability("b", 0.0, 0.5, 0.1, (-0.2, 0.4)),
        Ability("c", 0.0, 0.001, 1.0, (1, 1)),
    )
    assert [each.known for each in (known, unmoved, unsaid)] == [True, False, False]
    assert (
        "not shown to know: b, c" in AbilitiesFound("m", (known, unmoved, unsaid)).report().summary
    )


@pytest.mark.slow
def test_the_default_model_knows_the_behaviours(smollm2, record_property):
    for each in Abilities().run(smollm2).found:
        record_property(each.name, f"odds {each.odds:+.2f}, gap {each.gap}")
        assert each.known, each

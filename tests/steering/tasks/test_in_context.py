"""In-context tasks: their words, their prompts, and what must be refused."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering.tasks.in_context import IN_CONTEXT, TEMPLATES, InContextTask
from jackfield.steering.tasks.in_context_accuracy import InContextAccuracy
from jackfield.steering.tasks.last_token import answered, gain_interval
from jackfield.testing import tiny_llama


@pytest.fixture(scope="module")
def worded():
    words = " ".join(f"{x} {y}" for task in IN_CONTEXT.values() for x, y in task.pairs)
    return tiny_llama(texts=[f" {words}", words, "Q: A: -> Input: Output:"])


def test_there_are_enough_tasks_and_no_question_twice():
    assert len(IN_CONTEXT) >= 12
    for task in IN_CONTEXT.values():
        questions = [x for x, _ in task.pairs]
        assert 20 <= len(questions) == len(set(questions)), task.name


def test_a_prompt_shows_others_and_asks_its_own(worded):
    task = IN_CONTEXT["antonym"]
    prompts = task.prompts(worded, "qa", shots=3, asked=[("hot", "cold")])
    (shown,), (shuffled,), (bare,) = prompts.shown, prompts.shuffled, prompts.bare
    *demonstrations, last = shown.split("\n\n")
    assert last == bare == "Q: hot\nA:"
    known = {f"Q: {x}\nA: {y}" for x, y in task.pairs} - {"Q: hot\nA: cold"}
    assert len(demonstrations) == 3
    assert set(demonstrations) <= known
    wrong = shuffled.split("\n\n")[:-1]
    assert not set(wrong) & known
    assert sorted(shuffled.split()) == sorted(shown.split())
    assert worded.token_strings(list(prompts.answers)) == [" cold"]


@pytest.mark.parametrize("name", ["country-language", "antonym"])
def test_every_answer_of_shuffled_demonstrations_is_wrong(worded, name):
    task = IN_CONTEXT[name]
    for seed in range(5):
        prompts = task.prompts(worded, "arrow", shots=4, seed=seed)
        for shown, shuffled in zip(prompts.shown, prompts.shuffled, strict=True):
            right, wrong = (dict(line.split(" -> ") for line in text.split("\n")[:-1])
                            for text in (shown, shuffled))  # fmt: skip
            assert list(right) == list(wrong)
            assert sorted(right.values()) == sorted(wrong.values())
            assert all(right[x] != y for x, y in wrong.items())


def test_two_answers_change_places_in_even_numbers_only(worded):
    pairs = tuple(
        (x, ("cold", "small")[i % 2]) for i, (x, _) in enumerate(IN_CONTEXT["plural"].pairs)
    )
    task = InContextTask("binary", pairs)
    assert len(task.prompts(worded, "qa", shots=4).shuffled) == len(pairs)
    with pytest.raises(InputError, match=r"so that each is wrong, got 2 answers for 5.*even"):
        task.prompts(worded, "qa", shots=5)


def test_every_template_ends_where_the_answer_begins():
    for template in TEMPLATES.values():
        whole, cut = template.prompt([("a", "b")], "c"), template.prompt((), "c")
        assert whole.endswith(cut)
        assert not cut.endswith(" ")
        assert template.pair.format(x="c", y="d") == f"{cut} d"


def test_answers_of_several_tokens_are_left_out(smollm2):
    task = InContextTask("x", (("a", "cold"), ("b", "antidisestablishmentarianism")))
    assert task.usable(smollm2) == (("a", "cold"),)
    with pytest.raises(InputError, match="an answer of one token, got antidis"):
        task.prompts(smollm2, "qa", asked=task.pairs, shown=IN_CONTEXT["plural"].pairs)


def test_halves_share_no_word_and_the_seed_decides(worded):
    task = IN_CONTEXT["plural"]
    fit, test = task.halves(worded, seed=1)
    assert not set(fit) & set(test)
    assert task.halves(worded, seed=1) == (fit, test)
    assert task.halves(worded, seed=2) != (fit, test)


def test_bad_input_is_refused(worded):
    task = IN_CONTEXT["plural"]
    with pytest.raises(InputError, match=r"one of qa, arrow.*Did you mean arrow"):
        task.prompts(worded, "arow")
    with pytest.raises(InputError, match="more pairs than shots"):
        task.prompts(worded, "qa", shots=4, shown=task.pairs[:4])
    with pytest.raises(InputError, match="at least one task"):
        InContextAccuracy().run(worded, [])


def test_accuracy_is_the_share_of_likeliest_tokens(worded):
    task = IN_CONTEXT["next-letter"]
    found = InContextAccuracy(shots=2, questions=7, templates=("colon",)).run(worded, [task])
    (cell,) = found.cells
    prompts = task.prompts(worded, "colon", shots=2, asked=task.pairs[:7], shown=task.pairs)
    hits = [
        int(worded.run(text).logits[0, -1].argmax()) == answer
        for text, answer in zip(prompts.shown, prompts.answers, strict=True)
    ]
    assert cell.shown == pytest.approx(sum(hits) / 7)
    assert answered(worded, prompts.shown, prompts.answers).tolist() == hits
    assert found.able == (() if cell.shown < 0.5 else ("next-letter",))
    assert "tasks" in found.report().summary


def test_a_gain_of_nothing_has_an_interval_around_it():
    half = torch.tensor([True] * 10 + [False] * 10)
    low, high = gain_interval(~half, half)
    assert low < 0 < high
    assert gain_interval(half, half) == (0.0, 0.0)


def test_smollm2_does_a_task_when_it_is_shown_and_not_otherwise(smollm2):
    study = InContextAccuracy(questions=6, shots=5)
    (cell,) = study.run(smollm2, [IN_CONTEXT["capitalise"]]).cells
    assert cell.shown >= 0.8
    assert cell.bare <= 0.2


@pytest.mark.slow
def test_smollm2_is_able_to_do_all_tasks(smollm2):
    found = InContextAccuracy(questions=24).run(smollm2, list(IN_CONTEXT.values()))
    assert len(found.able) >= 17, found.report().text

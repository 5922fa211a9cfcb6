"""Answers: which tokens count, by hand; what is computed anew at each step."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from jackfield.core.errors import InputError
from jackfield.edits import Add
from jackfield.steering.learned_tokens import narrowed
from jackfield.steering.reft.answers import answers, first_and_last
from jackfield.steering.reft.loreft import LoReFT
from jackfield.steering.reft.sides import sides
from jackfield.testing import tiny_llama

TEXTS = ("a b c d e f g", "the cat sat here", "on and on we go")
AT = "layers.1.resid_post"


@pytest.fixture(scope="module")
def worded():
    return tiny_llama(torch.float64, texts=TEXTS)


def test_only_the_answer_is_said(worded):
    found = answers(worded, [" here", " on we go"], ["the cat sat", "we"])
    strings = [worded.token_strings(row) for row in found.tokens]
    said = [
        [s for s, yes in zip(row, flags, strict=True) if yes]
        for row, flags in zip(strings, found.said.tolist(), strict=True)
    ]
    assert said == [[" here"], [" on", " we", " go"]]
    assert found.lengths.tolist() == [3, 1]
    assert found.mask.sum(dim=1).tolist() == [4, 4]


def test_of_a_text_without_a_prompt_all_is_said_but_the_first_token(worded):
    found = answers(worded, ["a b c", "the cat sat here"])
    assert found.said.tolist() == [[False, True, True, False], [False, True, True, True]]


@pytest.mark.parametrize("edited", [False, True])
def test_the_loss_is_that_of_a_plain_forward_on_the_answer_alone(worded, edited):
    """Each row alone, without a cache of lower layers, by torch's own cross entropy."""
    said, prompts = [" here", " on we go"], ["the cat sat", "we"]
    lessons = sides(worded, said, None, prompts, AT).lessons
    edits = [Add(torch.randn(32, dtype=torch.float64), at=AT)] if edited else []
    expected = []
    for prompt, answer in zip(prompts, said, strict=True):
        ids = worded.tokenizer(prompt)["input_ids"], worded.tokenizer(answer)["input_ids"]
        row = torch.tensor([*ids[0], *ids[1]])
        logits = worded.run(row[None], edits=edits).logits[0]
        expected.append(
            cross_entropy(
                logits[len(ids[0]) - 1 : -1].float(), row[len(ids[0]) :], reduction="none"
            )
        )
    with torch.no_grad():
        torch.testing.assert_close(lessons.nll(torch.arange(2), edits), torch.cat(expected))
    assert lessons.mean(edits) == pytest.approx(float(torch.cat(expected).mean()), rel=1e-5)


@pytest.mark.parametrize("at", ["layers.1.mlp_out", "layers.1.resid_pre", "layers.0.resid_post"])
def test_the_loss_is_the_same_wherever_the_forward_begins(worded, at):
    whole = sides(worded, list(TEXTS), None, None, "embed").lessons
    lessons = sides(worded, list(TEXTS), None, None, at).lessons
    edits = [Add(torch.randn(32, dtype=torch.float64), at=at)]
    assert lessons.mean(edits) == pytest.approx(whole.mean(edits), abs=1e-6)
    assert lessons.mean(edits) != pytest.approx(lessons.mean([]), abs=1e-3)


def test_layers_below_the_edit_are_not_computed_again(worded):
    calls = dict.fromkeys((0, 2), 0)

    def counting(layer: int):
        def count(*_: object) -> None:
            calls[layer] += 1

        return count

    hooks = [worded.blocks[i].mlp.register_forward_hook(counting(i)) for i in calls]
    assert worded.sinks == ()
    counted = dict(calls)
    LoReFT(steps=10, rank=1).fit(worded, positive=list(TEXTS), at=AT)
    for hook in hooks:
        hook.remove()
    assert calls[0] - counted[0] == 1
    assert calls[2] - counted[2] >= 10


def test_first_and_last_are_those_of_the_prompt(worded):
    found = answers(worded, [" here", " on we go"], ["the cat sat on", "we go a b"])
    chosen = found.chosen(narrowed(first_and_last(1), "all"), ())
    assert chosen.int().tolist() == [[1, 0, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0]]
    without = found.chosen(narrowed(first_and_last(1), "~sinks"), (0,))
    assert without.int().tolist() == [[0, 0, 0, 1, 0, 0, 0]] * 2


def test_what_cannot_be_said_is_refused(worded):
    with pytest.raises(InputError, match="at least one, got none"):
        answers(worded, [])
    with pytest.raises(InputError, match="one prompt for each of the 2, got 1"):
        answers(worded, ["a", "b"], ["c"])
    with pytest.raises(InputError, match="a token to say in each text, got none in text 1"):
        answers(worded, [" b", ""], ["a", "a"])
    with pytest.raises(InputError, match="at least a token"):
        answers(worded, ["a b", ""])
    with pytest.raises(InputError, match="prompts, as the rule asks where they end"):
        LoReFT(where=first_and_last(2)).fit(worded, positive=list(TEXTS), at=AT)

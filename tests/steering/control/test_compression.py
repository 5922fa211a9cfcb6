"""Compressed reasoning: what counts as said, which sign is chosen, and a planted end of answer."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering import MeanDifference, SteeringVector
from jackfield.steering.control import (
    CONCISE,
    SMALL_SUMS,
    VERBOSE,
    Answers,
    CompressedReasoning,
    Compression,
    Problem,
)
from jackfield.steering.control.compression import said

END = 100  # ends a row of the tiny model
PROBLEMS = [Problem(torch.tensor([2 + i, 9, 30 + i]), str(i)) for i in range(6)]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("3 + 4 = 7", "7", True),
        ("3 + 4 = 7. So, the answer is 7.", "7", True),
        ("7, no: 8.", "7", False),
        ("It is 17.", "7", False),
        ("It is 7.0.", "7", True),
        ("It is 1,200.", "1200", True),
        ("It is -7.", "7", False),
        ("no number", "7", False),
        ("", "7", False),
        ("The capital is paris, of course.", "Paris", True),
        ("London", "Paris", False),
    ],
)
def test_what_a_text_comes_to(text, answer, expected):
    assert said(text, answer) is expected


def answers(name: str, factor: float, tokens: list[int], right: list[bool]) -> Answers:
    cut = tuple(each >= 80 for each in tokens)
    return Answers(name, factor, 0.3, tuple(tokens), tuple(right), cut, ("",) * len(tokens))


YES, NO = [True] * 8, [False] * 8
PLAIN = answers("unsteered", 0.0, [50, 60, 40, 55, 45, 52, 48, 50], YES)


@pytest.mark.parametrize(
    ("steered", "expected"),
    [
        ([answers("steering", 1.0, [30] * 8, YES), answers("steering", -1.0, [70] * 8, YES)], 1.0),
        ([answers("steering", 1.0, [70] * 8, YES), answers("steering", -1.0, [30] * 8, YES)], -1.0),
        ([answers("steering", 1.0, [5] * 8, NO), answers("steering", -1.0, [30] * 8, YES)], -1.0),
        ([answers("steering", 1.0, [5] * 8, NO)], None),
        ([answers("steering", 1.0, [5] * 8, [*YES[1:], False])], 1.0),
        ([answers("steering", 1.0, [51, 59, 41, 54, 46, 51, 49, 50], YES)], None),
        ([answers("random", 1.0, [5] * 8, YES)], None),
    ],
    ids=["plus", "minus", "short but wrong", "only wrong", "within chance", "no shorter", "random"],
)
def test_the_best_is_the_shortest_at_equal_accuracy(steered, expected):
    found = Compression("m", PLAIN, tuple(steered), 80, 0)
    assert (found.best.factor if found.best else None) == expected
    assert ("equal accuracy" in found.report().summary) == (expected is None)


def test_differences_are_paired():
    """Lengths that vary a lot between problems, and are one shorter in each, are surely shorter."""
    longer = Compression("m", PLAIN, (), 80, 0).longer
    change = longer(answers("steering", 1.0, [each - 1 for each in PLAIN.tokens], YES))
    assert (change.mean, change.low, change.high) == (-1, -1, -1)


def ending(sign: float) -> SteeringVector:
    """A direction that makes the end of the row likelier (or less likely) in a silent model."""
    return SteeringVector(
        sign * torch.ones(32), "layers.1.resid_post", {"name": "planted", "where": "all"}, "tiny",
        (1, 1), 1, (), 1.0, None, None,
    )  # fmt: skip


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_end_is_found_with_its_sign(tiny, sign):
    with torch.no_grad():
        for block in tiny.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        tiny.module.lm_head.weight[END] = 0.4
    study = CompressedReasoning(kls=(0.3,), max_new_tokens=12)
    always = [Problem(each.prompt, "") for each in PROBLEMS]  # what is always said
    found = study.run(tiny, ending(sign), always, neutral=torch.randint(1, 99, (4, 9)))
    assert found.best is not None
    assert found.best.factor * sign > 0
    assert found.longer(found.best).high < 0
    other = next(x for x in found.steered if x.name == "steering" and x.factor * sign < 0)
    assert sum(other.cut) >= sum(found.plain.cut) > sum(found.best.cut)
    for each in found.steered:
        assert each.kl == pytest.approx(0.3, rel=0.1)


def test_tokens_are_counted_to_the_end_of_each_answer(tiny):
    study = CompressedReasoning(kls=(0.05,), max_new_tokens=12)
    found = study.run(tiny, ending(1.0), PROBLEMS, neutral=torch.randint(1, 99, (4, 9)))
    prompts = torch.stack([each.prompt for each in PROBLEMS])
    made = tiny.generate(prompts, max_new_tokens=12)
    expected = [row.index(END) if END in row else len(row) for row in made.tokens.tolist()]
    assert list(found.plain.tokens) == expected
    assert found.plain.cut == tuple(END not in row for row in made.tokens.tolist())


def test_the_texts_do_not_share_a_sum_with_the_problems():
    assert len(CONCISE) == len(VERBOSE) == 24
    assert len({str(each.prompt) for each in SMALL_SUMS}) == len(SMALL_SUMS)
    asked = {each.prompt[0]["content"] for each in SMALL_SUMS}
    for short, long in zip(CONCISE, VERBOSE, strict=True):
        (question, brief), (same, wordy) = short.split("\n"), long.split("\n")
        assert question == same
        assert question not in asked
        assert 3 * len(brief) < len(wordy)


def test_bad_input_is_refused(tiny):
    with pytest.raises(InputError, match="problems and KLs"):
        CompressedReasoning().run(tiny, ending(1.0), [])
    with pytest.raises(InputError, match="problems and KLs"):
        CompressedReasoning(kls=()).run(tiny, ending(1.0), PROBLEMS)


@pytest.mark.slow
def test_on_the_real_model_one_sign_is_shorter_and_the_other_longer(smollm2):
    found = MeanDifference().fit(
        smollm2, positive=list(CONCISE), negative=list(VERBOSE), at="layers.16.resid_post"
    )
    study = CompressedReasoning(kls=(0.1,), max_new_tokens=48)
    result = study.run(smollm2, found, SMALL_SUMS[:12])
    lengths = {x.factor > 0: result.longer(x) for x in result.steered if x.name == "steering"}
    assert lengths[True].mean < 0 < lengths[False].mean

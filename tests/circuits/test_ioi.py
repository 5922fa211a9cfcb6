"""The battery: alignment, determinism, and what the model itself does."""

import pytest

from jackfield.circuits import IOI, LogitDifference, patch
from jackfield.circuits.ioi import TEMPLATES
from jackfield.core.errors import InputError


@pytest.mark.parametrize("corrupt", ["name", "swapped", "abc"])
@pytest.mark.parametrize("order", ["baba", "abba"])
@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_pairs_align_token_by_token_and_differ_in_one(smollm2, corrupt, order, template):
    examples = IOI(corrupt=corrupt, order=order, template=template).examples(smollm2, 8)
    place = {"name": "IO"}.get(corrupt, "S2")
    for each in examples:
        clean, other = (smollm2.tokenizer(t).input_ids for t in (each.clean, each.corrupted))
        assert len(clean) == len(other) == len(each.labels)
        differ = [label for a, b, label in zip(clean, other, each.labels, strict=True) if a != b]
        assert differ == [place]
        assert len(smollm2.tokenizer(each.answer).input_ids) == 1
        assert len(smollm2.tokenizer(each.wrong).input_ids) == 1
        assert each.clean.count(each.answer) == 1
    assert len({each.labels for each in examples}) == 1


def test_the_answer_follows_the_corruption(smollm2):
    (name,) = IOI().examples(smollm2, 1)
    assert name.wrong in name.corrupted
    assert name.wrong not in name.clean
    (swapped,) = IOI(corrupt="swapped").examples(smollm2, 1)
    assert swapped.corrupted.count(swapped.answer) == 2
    (third,) = IOI(corrupt="abc").examples(smollm2, 1)
    assert third.corrupted.count(third.answer) == third.corrupted.count(third.wrong) == 1


def test_the_same_seed_gives_the_same_examples(smollm2):
    battery = IOI()
    assert battery.examples(smollm2, 5, seed=3) == battery.examples(smollm2, 5, seed=3)
    assert battery.examples(smollm2, 5, seed=3) != battery.examples(smollm2, 5, seed=4)


def test_the_model_knows_the_task_and_chance_is_seen_as_such(smollm2):
    battery = IOI()
    examples = battery.examples(smollm2, 12)
    measured = battery.measure(smollm2, examples)
    assert measured.accuracy >= 0.9
    assert "prefers the indirect object in" in measured.report().summary
    best = smollm2.run(examples[0].clean).logits[0, -1]
    ids = [smollm2.tokenizer(text).input_ids[0] for text in (examples[0].answer, examples[0].wrong)]
    assert measured.differences[0] == pytest.approx(float(best[ids[0]] - best[ids[1]]), abs=1e-3)
    assert measured.first[0] == (int(best.argmax()) == ids[0])


def test_examples_are_arguments_of_patch(smollm2):
    examples = IOI().examples(smollm2, 2)
    given = IOI.as_pairs(examples)
    assert given["metric"] == LogitDifference(
        [each.answer for each in examples], [each.wrong for each in examples]
    )
    grid = patch(smollm2, **given, sites="layers.27:30.resid_post")
    assert grid.labels[3] == "IO"
    assert float(grid.values[-1, -1]) == pytest.approx(1, abs=1e-3)
    heads = patch(smollm2, **given, sites="layers.23.z", by="head")
    assert heads.values.shape == (1, 9)
    assert "head" in heads.report().text


def test_a_model_without_names_in_its_vocabulary_is_refused(tiny):
    with pytest.raises(InputError, match="words of one token"):
        IOI().examples(tiny, 1)

"""What all tasks share: alignment, seeds, accuracy, and the refusal of meaningless runs."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from jackfield.circuits import (
    IOI,
    ColoredObjects,
    Docstring,
    FactualRecall,
    GreaterThan,
    Induction,
    PrOntoQA,
    RelationSets,
    Task,
    TaskExample,
    by_group,
    patch,
)
from jackfield.circuits.tasks.accuracy import mean_and_interval, share_and_interval
from jackfield.circuits.tasks.facts import RELATIONS
from jackfield.core.errors import InputError

TASKS: list[Task] = [
    GreaterThan(),
    GreaterThan(template=1),
    *(
        ColoredObjects(template=template, corrupt=corrupt)
        for template in ("list", "question", "shown")
        for corrupt in ("object", "color")
    ),
    *(
        Docstring(style=style, corrupt=corrupt)
        for style in ("rst", "google")
        for corrupt in ("answer", "all")
    ),
    *(
        PrOntoQA(question=question, hops=hops, rival=rival)
        for question in ("property", "truth")
        for hops in (1, 2, 3)
        for rival in ("other", "opposite")
    ),
    *(
        FactualRecall(relation=relation, template=template)
        for relation in RELATIONS
        for template in range(3)
    ),
    *(Induction(length=7, corrupt=corrupt) for corrupt in ("answer", "cue", "previous")),
    RelationSets(),
]


def ids_of(model: Any, prompt: Any) -> list[int]:
    return list(prompt) if isinstance(prompt, tuple) else model.tokenizer(prompt).input_ids


def single(model: Any, answer: Any) -> bool:
    every = answer if isinstance(answer, tuple) else (answer,)
    return all(isinstance(each, int) or len(ids_of(model, each)) == 1 for each in every)


def tokens_of(model: Any, answer: Any) -> set[int]:
    every = answer if isinstance(answer, tuple) else (answer,)
    return {each if isinstance(each, int) else ids_of(model, each)[0] for each in every}


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_pairs_align_and_answers_are_one_token(smollm2, task):
    examples = task.examples(smollm2, 12)
    assert len(examples) == 12
    for each in examples:
        clean, other = (ids_of(smollm2, prompt) for prompt in (each.clean, each.corrupted))
        assert len(clean) == len(other) == len(each.labels)
        assert clean != other
        assert single(smollm2, each.answer)
        assert single(smollm2, each.wrong)
        right, wrong = tokens_of(smollm2, each.answer), tokens_of(smollm2, each.wrong)
        assert right
        assert wrong
        assert not right & wrong
    if not isinstance(task, RelationSets):
        assert len({each.labels for each in examples}) == 1


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_labels_stand_where_words_vary_and_tokens_where_they_do_not(smollm2, task):
    examples = task.examples(smollm2, 12)
    if isinstance(task, RelationSets | Induction):
        return
    table = [smollm2.token_strings(ids_of(smollm2, each.clean)) for each in examples]
    for column, label in zip(zip(*table, strict=True), examples[0].labels, strict=True):
        assert set(column) == {label} or label not in column


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_seed_decides_the_examples(smollm2, task):
    assert task.examples(smollm2, 9, seed=3) == task.examples(smollm2, 9, seed=3)
    assert task.examples(smollm2, 9, seed=3) != task.examples(smollm2, 9, seed=4)
    assert task.examples(smollm2, 4, seed=3) != task.examples(smollm2, 4, seed=4)


def test_a_model_that_cannot_do_the_task_is_refused(smollm2):
    task = IOI()
    examples = task.examples(smollm2, 6)
    turned = [replace(each, answer=each.wrong, wrong=each.answer) for each in examples]
    with pytest.raises(InputError, match=r"expected the answer above .* in 80%.*got 0% of 6"):
        task.require(smollm2, turned)
    with pytest.raises(InputError, match="none of 6"):
        Fixed(turned).known(smollm2, 6)


def test_a_twin_that_changes_nothing_is_refused(smollm2):
    task = IOI()
    same = [replace(each, corrupted=each.clean) for each in task.examples(smollm2, 6)]
    with pytest.raises(InputError, match=r"clean/corrupted gap of at least 0.1, got 0"):
        task.require(smollm2, same)


def test_known_keeps_what_the_model_answers_rightly_and_says_the_share(smollm2):
    examples = IOI().examples(smollm2, 6)
    mixed = [*examples[:3], *(replace(e, answer=e.wrong, wrong=e.answer) for e in examples[3:])]
    found = Fixed(mixed).known(smollm2, 6)
    assert list(found.examples) == examples[:3]
    assert found.share == 0.5
    assert "Kept 3 of 6 (50%)" in found.report().summary
    with pytest.raises(InputError, match="none of 6"):
        Fixed(mixed).known(smollm2, 6, margin=100)


class Fixed(Task):
    """Gives the examples that it was made with."""

    def __init__(self, examples: list[TaskExample]) -> None:
        self._examples = examples

    def examples(self, model: Any, n: int, seed: int = 0) -> list[TaskExample]:
        return self._examples[:n]


def test_no_examples_are_refused(smollm2):
    with pytest.raises(InputError, match="expected examples, got none"):
        IOI().measure(smollm2, [])


def test_groups_are_reported_apart(smollm2):
    examples = RelationSets(relations=("capital", "opposite"), templates=(0,)).examples(smollm2, 8)
    assert {name: len(each) for name, each in by_group(examples).items()} == {
        "capital": 4,
        "opposite": 4,
    }
    measured = RelationSets().measure(smollm2, examples)
    text = measured.report().text
    assert "capital" in text
    assert "opposite" in text


def test_token_ids_and_sets_of_answers_reach_patching(tiny64):
    examples = Induction(length=5).examples(tiny64, 3)
    sets = [replace(each, answer=(each.answer, 99), wrong=(each.wrong, 98)) for each in examples]
    grid = patch(tiny64, **Induction.as_pairs(examples), by=None)
    torch.testing.assert_close(grid.values, torch.ones(3, 1, dtype=torch.float64))
    assert Induction.as_pairs(sets)["metric"].name == "probability difference"
    assert Induction().measure(tiny64, sets).metric == "probability difference"


def test_intervals_are_those_of_the_textbooks():
    share, low, high = share_and_interval([True] * 8 + [False] * 2)
    assert (share, low, high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-3)  # Wilson, 8 of 10
    values = [float(each) for each in range(100)]
    mean, low, high = mean_and_interval(values)
    half = 1.96 * torch.tensor(values).std().item() / 10
    assert mean == 49.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1)

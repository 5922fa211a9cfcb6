"""Ontology questions: the texts against their rules, shares and intervals by hand, a real model."""

import pytest

from jackfield.core.errors import InputError
from jackfield.reports.intervals import wilson
from jackfield.steering.rules.ontology import Answered, OntologyAnswers, OntologyQuestions


def reachable(question) -> set[str]:
    """What somebody is, from the sentences of the text alone."""
    *sentences, fact = question.text.removesuffix(".").split(". ")
    pairs = [(each.split()[1], each.split()[-1]) for each in sentences]
    found = {fact.split()[-1]}
    for _ in pairs:
        found |= {b for a, b in pairs if a in found}
    return found


def test_half_of_the_statements_follow_from_the_text_and_take_so_many_hops():
    made = OntologyQuestions(hops=(1, 3), questions=10).made()
    assert [each.hops for each in made] == [1] * 10 + [3] * 10
    for each in made:
        assert (each.statement in reachable(each)) == each.truth
        assert len(each.rules) == 2 * each.hops
        assert {f"Every {rule.replace(' -> ', ' is a ')}" for rule in each.rules} == set(
            each.text.split(". ")[:-1]
        )
    assert sum(each.truth for each in made) == 10


def test_shares_are_counted_by_hand():
    answers = tuple(
        Answered(hops, truth, odds, rules, truth, True)
        for hops, truth, odds, rules in (
            (1, True, 3.0, True), (1, False, 1.0, False),
            (2, True, 1.5, True), (2, False, 2.5, True),
        )
    )  # fmt: skip
    found = OntologyAnswers("m", "s", answers)
    assert found.right("model") == (2, 4)
    assert found.right("model", 1) == (2, 2)
    assert found.right("rules") == (3, 4)
    assert found.right("told") == (4, 4)


def test_too_many_hops_are_refused():
    with pytest.raises(InputError, match="hops from 1 to 3"):
        OntologyQuestions(hops=(4,)).made()


@pytest.mark.slow
def test_on_a_real_model_rules_answer_what_the_model_cannot(smollm2):
    found = OntologyQuestions(questions=16).run(smollm2, "layers.8.resid_post")
    right, count = found.right("rules")
    assert wilson(right, count)[0] > 0.5
    assert right > found.right("model")[0]
    assert found.right("told") == (count, count)

"""The table of what can be steered and read, with both single cells planted by hand."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering.tasks import steerable_or_decodable
from jackfield.steering.tasks.decoders import Probe
from jackfield.steering.tasks.in_context import (
    IN_CONTEXT,
    TEMPLATES,
    InContextTask,
    Template,
)
from jackfield.steering.tasks.steerable_or_decodable import SteerableOrDecodable
from jackfield.steering.tasks.steerable_result import Cell, SteerableTable
from jackfield.testing import tiny_llama

QUESTIONS = tuple("ab ac ad ae af ag ah ai aj ak al am an ao ap aq".split())
ANSWERS = tuple(f"{word}o" for word in QUESTIONS)
TASK = InContextTask("planted", tuple(zip(QUESTIONS, ANSWERS, strict=True)))
SPOKEN = [*QUESTIONS, *(f" {word}" for word in (*QUESTIONS, *ANSWERS, ";"))]
N = len(QUESTIONS)
FLAG, CONSTANT, MARK = (
    2 * N,
    2 * N + 1,
    2 * N + 2,
)  # axes of the stream, after questions and answers
STUDY = SteerableOrDecodable(
    templates=("space", "line"), shots=3, layers=(1,), every=1, top=1, tuned_steps=0,
    probe_steps=5, hidden=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _templates(monkeypatch):
    """Templates whose last token is the question itself, so that no attention has to bring it."""
    monkeypatch.setitem(TEMPLATES, "space", Template("space", "{x} {y}"))
    monkeypatch.setitem(TEMPLATES, "line", Template("line", "{x} {y}", " ; "))


def planted(*, steerable: bool):
    """A model by hand: the last block answers if a flag is set, or overrules what could be read.

    Words of answers carry a flag, which attention in block 0 spreads to the tokens behind them.
    Steerable: where the flag is, the last block turns question i into answer i; nothing before
    speaks of answers. Otherwise: the answer stands beside its question from the first, and the
    last block writes something else over it, flag or no flag.
    """
    model = tiny_llama(texts=SPOKEN, d_model=64)
    vocabulary, inner = model.tokenizer.get_vocab(), model.module.model
    embed, head = inner.embed_tokens.weight, model.module.lm_head.weight
    attention, mlp = inner.layers[0].self_attn, inner.layers[2].mlp
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        head[vocabulary[" ;"], [CONSTANT, MARK]] = torch.tensor([0.1, 1.0])
        for i, (x, y) in enumerate(TASK.pairs):
            embed[[vocabulary[x], vocabulary[f" {x}"]], i] = 1.0
            embed[[vocabulary[x], vocabulary[f" {x}"]], CONSTANT] = 1.0
            embed[vocabulary[f" {y}"], FLAG] = 1.0
            head[vocabulary[f" {y}"], N + i] = 1.0
            if not steerable:
                embed[[vocabulary[x], vocabulary[f" {x}"]], N + i] = 1.0
        attention.v_proj.weight[0, FLAG] = 1.0
        attention.o_proj.weight[FLAG, 0] = 1.0
        if steerable:
            rows = torch.arange(N)
            mlp.gate_proj.weight[rows, FLAG] = 5.0
            mlp.up_proj.weight[rows, rows] = 5.0
            mlp.down_proj.weight[N + rows, rows] = 5.0
        else:
            mlp.gate_proj.weight[0, CONSTANT] = mlp.up_proj.weight[0, CONSTANT] = 5.0
            mlp.down_proj.weight[MARK, 0] = 5.0
    return model


def test_a_task_that_can_be_steered_and_not_read_is_found():
    found = STUDY.run(planted(steerable=True), [TASK])
    for each in found.cells:
        assert each.plain == 0.0
        assert each.gain == each.transfer == 1.0
        assert each.lens == 0.0
    assert found.counts == {(True, True): 0, (True, False): 2, (False, True): 0, (False, False): 0}
    assert found.closed == {"open": 2, "tuned": 0, "probe": 0}
    assert "2 only steered" in found.report().summary


def test_a_task_that_can_be_read_and_not_steered_is_found():
    found = STUDY.run(planted(steerable=False), [TASK])
    for each in found.cells:
        assert each.lens == 1.0
        assert each.gain == each.plain == 0.0
    assert found.counts[False, True] == 2


def test_a_random_model_is_neither():
    found = STUDY.run(tiny_llama(texts=SPOKEN), [TASK])
    assert found.counts[False, False] == 2


def spied(monkeypatch, name: str) -> list:
    """The arguments that a part of the study is called with, which is run all the same."""
    made, plain = [], getattr(steerable_or_decodable, name)

    def noted(*given, **more):
        made.append(given)
        return plain(*given, **more)

    monkeypatch.setattr(steerable_or_decodable, name, noted)
    return made


def test_the_tuned_lens_is_fitted_on_words_that_no_task_tests(monkeypatch):
    """The second task has the first one's words, halved otherwise as it has one more."""
    fitted = spied(monkeypatch, "diagonal_lens")
    other = InContextTask("other", (*TASK.pairs[::-1], ("ao", "abo")))
    model = tiny_llama(texts=SPOKEN)
    tested = {x for task in (TASK, other) for x, _ in task.halves(model)[1]}
    learned = {x for task in (TASK, other) for x, _ in task.halves(model)[0]}
    STUDY.run(model, [TASK, other])
    site = "layers.0.resid_post"
    rows = {x: model.run(x, sites=[site])[site][0, -1] for x in QUESTIONS}
    told = [{x for x, row in rows.items() if torch.allclose(row, h.float(), atol=1e-5)}
            for h in fitted[0][1]]  # fmt: skip
    assert learned & tested
    assert set().union(*told) == learned - tested


def test_a_tuned_lens_without_a_word_of_its_own_is_refused():
    model = tiny_llama(texts=SPOKEN)
    fit, test = TASK.halves(model)
    swapped = InContextTask("swapped", TASK.pairs)
    object.__setattr__(swapped, "halves", lambda *given: (test, fit))
    with pytest.raises(InputError, match="two or more words to fit on that no other task tests"):
        STUDY.run(model, [TASK, swapped])


def test_the_control_probe_chooses_among_as_many_answers_as_the_real_one(monkeypatch):
    asked: list[tuple[bool, tuple[int, ...]]] = []
    plain = Probe.scores

    def scores(self, h, choices):
        asked.append((torch.is_grad_enabled(), tuple(choices.tolist())))
        return plain(self, h, choices)

    monkeypatch.setattr(Probe, "scores", scores)
    STUDY.run(tiny_llama(texts=SPOKEN), [TASK])
    assert {grad: len({c for g, c in asked if g == grad}) for grad in (True, False)} == {
        True: 1, False: 1
    }  # fmt: skip
    assert {len(choices) for _, choices in asked} == {N // 2, N - N // 2}


def cell(**changes) -> Cell:
    plain = {
        "task": "t", "template": "qa", "questions": 10, "site": "layers.1.resid_post",
        "plain": 0.0, "gain": 0.0, "gain_interval": (0.0, 0.0), "transfer": 0.0, "lens": 0.0,
        "lens_interval": (0.0, 0.3), "tuned": 0.0, "tuned_interval": (0.0, 0.3), "probe": 0.0,
        "control": 0.0, "selectivity": 0.0, "selectivity_interval": (0.0, 0.0),
    }  # fmt: skip
    return Cell(**{**plain, **changes})


def test_a_gain_whose_interval_holds_0_is_no_steering():
    table = SteerableTable("m", 0.2, 5, ())
    assert table.steerable(cell(gain=0.3, gain_interval=(0.1, 0.5)))
    assert not table.steerable(cell(gain=0.3, gain_interval=(0.0, 0.6)))
    assert not table.steerable(cell(gain=0.1, gain_interval=(0.05, 0.2)))
    unsure = cell(selectivity=0.3, selectivity_interval=(-0.1, 0.6), tuned=0.2)
    assert table.decodable(unsure) == ("tuned",)


def test_bad_input_is_refused():
    model = planted(steerable=True)
    with pytest.raises(InputError, match="at least one task and two templates, got 0 tasks"):
        STUDY.run(model, [])
    with pytest.raises(InputError, match=r"layers from 0 to 2, got \(7,\) of 3"):
        SteerableOrDecodable(layers=(7,)).run(model, [TASK])
    with pytest.raises(InputError, match="more pairs than shots"):
        SteerableOrDecodable(templates=("space", "line"), shots=9).run(model, [TASK])


@pytest.mark.slow
def test_smollm2_can_be_steered_where_the_logit_lens_reads_nothing(smollm2):
    """One task, to be done in a minute or two; twelve are in the documentation."""
    study = SteerableOrDecodable(templates=("qa", "io"), layers=(22,), every=9, shots=4)
    found = study.run(smollm2, [IN_CONTEXT["country-capital"]])
    assert all(found.steerable(each) for each in found.cells), found.report().text
    assert all("lens" not in found.decodable(each) for each in found.cells)

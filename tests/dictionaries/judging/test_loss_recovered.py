"""Loss recovered: 1 for the identity, 0 for the ablation itself, and only the tokens that count."""

import math
from functools import cache

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.dictionaries import LossRecovered
from jackfield.testing import tiny_llama

SITE = "layers.1.resid_post"
ALL = LossRecovered(where="all", samples=50)


def tiny():
    return tiny_llama(texts=[" " + " ".join(f"w{i}" for i in range(120))])


@cache
def spoken(lengths, seed):
    """Texts that the model itself says, so that it knows them better than an ablated one does."""
    module, draw, made = tiny().module, torch.Generator().manual_seed(seed), []
    for length in lengths:
        row = torch.randint(2, 100, (1,), generator=draw).tolist()
        while len(row) < length:
            with torch.no_grad():
                chances = module(input_ids=torch.tensor([row])).logits[0, -1].softmax(-1)
            row.append(int(torch.multinomial(chances, 1, generator=draw)))
        made.append(row)
    return made


def texts(lengths=(9, 4, 12), seed=1):
    return spoken(tuple(lengths), seed)


@pytest.fixture
def model():
    return tiny()


def losses(model, rows, mask_from=0, edits=()):
    """By the module itself, one text at a time: losses of tokens from `mask_from` on."""
    found = []
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad(), model.editing(list(edits)):
            log_p = model.module(input_ids=ids).logits[0].log_softmax(-1)
        found += [-float(log_p[t, row[t + 1]]) for t in range(mask_from, len(row) - 1)]
    return found


def test_the_identity_recovers_all(model, identity):
    result = ALL.run(identity(32, SITE), model, texts())
    for baseline in ("zero", "mean"):
        assert result.recovered(baseline) == pytest.approx(1, abs=1e-4)
        assert result.recovered(baseline, kl=True) == pytest.approx(1, abs=1e-4)
    assert result.cost("spliced", kl=True) == pytest.approx(0, abs=1e-5)


def test_a_dictionary_that_says_zero_or_the_mean_recovers_nothing(model, make):
    rows = texts()
    nothing = make(torch.eye(32), encoder=torch.zeros(32, 32), site=SITE)
    assert ALL.run(nothing, model, rows).recovered("zero") == pytest.approx(0, abs=1e-6)
    x = torch.cat([model.run(torch.tensor([row]), sites=[SITE])[SITE][0] for row in rows])
    mean = make(torch.eye(32), encoder=torch.zeros(32, 32), bias=x.mean(dim=0), site=SITE)
    result = ALL.run(mean, model, rows)
    assert result.recovered("mean") == pytest.approx(0, abs=1e-4)
    assert result.recovered("mean", kl=True) == pytest.approx(0, abs=1e-4)
    assert result.cost("spliced") == pytest.approx(result.cost("mean"), abs=1e-4)


def test_losses_are_those_of_the_module_however_texts_are_padded(model, make):
    rows, some = texts(), make(torch.eye(32)[:20], site=SITE)
    clean = losses(model, rows)
    spliced = losses(model, rows, edits=some.edits(where="all"))
    for batch in (1, 2, 3):
        result = LossRecovered(where="all", samples=10, batch=batch).run(some, model, rows)
        assert result.tokens.tolist() == [len(row) - 1 for row in rows], "the last predicts nothing"
        assert result.cost("clean") == pytest.approx(sum(clean) / len(clean), rel=1e-5)
        assert result.cost("spliced") == pytest.approx(sum(spliced) / len(spliced), rel=1e-5)


def test_positions_that_where_leaves_out_are_neither_changed_nor_counted(model, make):
    rows, nothing = texts(), make(torch.eye(32), encoder=torch.zeros(32, 32), site=SITE)
    result = LossRecovered(where="~sinks", samples=10).run(nothing, model, rows)
    skipped = len(model.sinks)
    clean = losses(model, rows, mask_from=skipped)
    assert int(result.tokens.sum()) == len(clean)
    assert result.cost("clean") == pytest.approx(sum(clean) / len(clean), rel=1e-5)


def test_rows_outside_the_dictionary_are_neither_changed_nor_counted(model, identity):
    rows = texts()
    norms = [model.run(torch.tensor([r]), sites=[SITE])[SITE][0].norm(dim=-1) for r in rows]
    limit = float(torch.cat(norms).median())
    result = ALL.run(identity(32, SITE, radius=(limit,)), model, rows)
    assert result.tokens.tolist() == [int((n[:-1] <= limit).sum()) for n in norms]


def test_the_interval_is_over_documents(model, make):
    some = make(torch.eye(32)[:20], site=SITE)
    one = ALL.run(some, model, texts((12,)))
    assert all(math.isnan(bound) for bound in one.interval())
    many = ALL.run(some, model, texts((12,) * 8))
    low, high = many.interval()
    assert low < many.recovered() < high
    same = ALL.run(some, model, texts((12,)) * 5)
    assert same.interval() == pytest.approx((same.recovered(),) * 2, abs=1e-9), "no spread"


def test_an_ablation_that_costs_nothing_gives_no_share(model, make):
    edits_nothing = make(torch.eye(32), site="layers.2.mlp_out")
    with torch.no_grad():
        model.module.model.layers[2].mlp.down_proj.weight.zero_()
    assert math.isnan(ALL.run(edits_nothing, model, texts()).recovered("zero"))


def test_it_reports_and_refuses(model, identity):
    report = ALL.run(identity(32, SITE), model, texts()).report()
    assert [row["variant"] for row in report.table] == ["clean", "spliced", "zero", "mean"]
    assert "is recovered" in report.summary
    with pytest.raises(InputError, match="two tokens"):
        ALL.run(identity(32, SITE), model, [[5]])
    with pytest.raises(InputError, match="means and the dictionary knows"):
        ALL.run(identity(32, SITE, radius=(1e-9,)), model, texts())

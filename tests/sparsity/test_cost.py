import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.edits import Add, ZeroOut
from jackfield.sparsity import WINA, language_cost
from jackfield.testing import tiny_llama

WORDS = "boats came home in the rain and wind while we saw a very quiet old wall".split()


def made_up(count):
    """Texts of 4 to 12 words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (count,), generator=generator).tolist()
    rows = [torch.randint(len(WORDS), (n,), generator=generator).tolist() for n in lengths]
    return [" ".join(WORDS[i] for i in row) for row in rows]


@pytest.fixture(scope="module")
def model():
    return tiny_llama(texts=[f" {' '.join(WORDS)}", *WORDS])


def test_losses_and_divergences_are_those_of_one_text_at_a_time(model):
    texts = made_up(6)
    edits = [Add(torch.ones(32), at="layers.1.resid_post", strength=0.5)]
    cost = language_cost(model, texts, {"pushed": edits}, batch_tokens=40)
    tokens, losses, divergences = [], [], []
    for text in texts:
        ids = model.tokenize([text])["input_ids"][0]
        plain = model.run([text]).logits[0, :-1].double().log_softmax(-1)
        pushed = model.run([text], edits=edits).logits[0, :-1].double().log_softmax(-1)
        tokens.append(len(ids) - 1)
        losses.append([-each.gather(1, ids[1:, None]).sum() for each in (plain, pushed)])
        divergences.append((plain.exp() * (plain - pushed)).sum())
    assert cost.tokens.sum() == sum(tokens)
    torch.testing.assert_close(
        cost.loss.sum(1), torch.tensor(losses).sum(0).double(), rtol=1e-5, atol=0
    )
    assert cost.kl[1].sum().item() == pytest.approx(torch.stack(divergences).sum().item(), rel=1e-4)
    assert cost.kl[0].abs().max() == 0


def test_the_perplexity_is_paired_with_its_interval(model):
    cost = language_cost(model, made_up(12), {"gone": [ZeroOut(at="layers.*.mlp_out")]})
    value, low, high = cost.perplexity("gone")
    assert low < value < high
    assert cost.change("none") == (1, 1, 1)
    change, low, high = cost.change("gone")
    assert change == pytest.approx(value / cost.perplexity()[0])
    assert cost.change("none", versus="gone")[0] == pytest.approx(1 / change)
    assert low < change < high
    assert cost.divergence("gone")[0] > 0
    rows = cost.report().table
    assert [row["edits"] for row in rows] == ["none", "gone"]
    assert rows[1]["perplexity"] == pytest.approx(value)


def test_text_is_read_up_to_the_limit(model):
    texts = made_up(40)
    some = language_cost(model, texts, {}, max_tokens=60, batch_tokens=20)
    assert 30 < some.tokens.sum() < 60


def test_bad_input_is_refused(model, tiny):
    with pytest.raises(InputError, match="at least two tokens"):
        language_cost(model, ["boats"], {})
    with pytest.raises(InputError, match="names of variants, got 'none'"):
        language_cost(model, ["boats came home"], {"none": []})
    with pytest.raises(InputError, match="tiny: expected a tokenizer"):
        language_cost(tiny, ["boats came home"], {})
    with pytest.raises(InputError, match="one of none, got 'other'"):
        language_cost(model, ["boats came home"], {}).perplexity("other")


def test_on_the_real_model_less_sparsity_costs_less(smollm2):
    """Small: the order of 25 % and 65 % is plain on some hundred tokens; the table is longer."""
    texts = [
        "The harbour was quiet when the first boats came in, and the gulls waited on the wall.",
        "In 1923 the committee met twice, but no decision about the bridge was written down.",
    ]
    variants = {
        f"{name} {share}": WINA(sparsity=share, weights=weights).fit(smollm2).edits()
        for share in (0.25, 0.65)
        for name, weights in (("WINA", True), ("TEAL", False))
    }
    cost = language_cost(smollm2, texts, variants)
    for name in ("WINA", "TEAL"):
        assert cost.divergence(f"{name} 0.25")[0] < cost.divergence(f"{name} 0.65")[0]
    assert cost.perplexity("WINA 0.25")[0] < 2 * cost.perplexity()[0]

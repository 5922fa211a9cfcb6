"""The logit lens against the model's own logits and a by-hand norm and head."""

import pytest
import torch

import jackfield as jf
from jackfield.core.config import from_json, to_json
from jackfield.core.errors import SiteError
from jackfield.lenses import LogitLens


def test_the_last_layer_is_the_model_itself(tiny, tokens):
    found = LogitLens(k=101).run(tiny, tokens)
    logits = tiny.run(tokens).logits
    shares = logits.softmax(dim=-1)
    assert float((found.kl[-1]).abs().max()) < 1e-5
    assert torch.equal(found.top_ids[-1, ..., 0], logits.argmax(dim=-1))
    assert torch.equal(found.rank[-1], torch.ones_like(tokens))
    torch.testing.assert_close(found.probability[-1], shares.amax(dim=-1), atol=1e-6, rtol=0)


def test_each_layer_is_the_final_norm_and_head_by_hand(tiny64, tokens):
    found = LogitLens(k=3).run(tiny64, tokens)
    run = tiny64.run(tokens, sites=["layers.0.resid_post"])
    inner = tiny64.module
    lens = inner.lm_head(inner.model.norm(run["layers.0.resid_post"])).float().detach()
    top = lens.softmax(dim=-1).topk(3)
    assert torch.equal(found.top_ids[0], top.indices)
    torch.testing.assert_close(found.top_probabilities[0], top.values)
    final = torch.distributions.Categorical(logits=run.logits.float())
    here = torch.distributions.Categorical(logits=lens)
    torch.testing.assert_close(found.kl[0], torch.distributions.kl_divergence(final, here))
    said = run.logits.argmax(dim=-1)
    order = lens.argsort(dim=-1, descending=True)
    torch.testing.assert_close(found.rank[0], (order == said[..., None]).long().argmax(-1) + 1)


def test_padding_changes_nothing_and_is_marked(smollm2):
    texts = ["The capital of France is", "Hello"]
    both, alone = LogitLens().run(smollm2, texts), LogitLens().run(smollm2, texts[1])
    assert both.tokens == (("The", " capital", " of", " France", " is"), ("Hello",))
    torch.testing.assert_close(both.kl[:, 1, :1], alone.kl[:, 0], atol=1e-3, rtol=1e-3)
    assert both.kl[:, 1, 1:].isnan().all()
    assert (both.rank[:, 1, 1:] == -1).all()
    assert both.answers[0][-1] == " Paris"


def test_many_rows_equal_a_few(tiny64, monkeypatch, tokens):
    from jackfield.lenses import logit_lens

    whole = LogitLens().run(tiny64, tokens)
    monkeypatch.setattr(logit_lens, "_ROWS", 3)
    cut = LogitLens().run(tiny64, tokens)
    torch.testing.assert_close(whole.kl, cut.kl)
    assert torch.equal(whole.top_ids, cut.top_ids)


def test_a_planted_answer_is_seen_from_its_layer_on(tiny):
    """Block 1 writes the unembedding of token 42, large, and nothing writes afterwards."""
    with torch.no_grad():
        for layer in (1, 2):
            tiny.module.model.layers[layer].self_attn.o_proj.weight.zero_()
            tiny.module.model.layers[layer].mlp.down_proj.weight.zero_()
    direction = 1000 * tiny.module.lm_head.weight[42].detach()
    edits = [jf.edits.Add(direction, at="layers.1.mlp_out")]
    with tiny.editing(edits):
        found = LogitLens().run(tiny, torch.tensor([[3, 4, 5]]))
    assert found.answers[0] == ("42", "42", "42")
    assert (found.top_ids[1:, 0, :, 0] == 42).all()
    assert (found.top_ids[0, 0, :, 0] != 42).all()
    assert "from layer 1 on" in found.sentence()


def test_the_report_of_each_prompt_is_saved(tmp_path, tiny, tokens):
    found = LogitLens().run(tiny, tokens)
    for suffix in ("html", "png", "csv", "json"):
        assert found.report(row=1).save(tmp_path / f"lens.{suffix}").stat().st_size > 0
    with pytest.raises(jf.core.errors.InputError, match="a row of 2"):
        found.report(row=2)


def test_bfloat16_is_read_in_float32(tiny, tokens):
    model = jf.wrap(tiny.module.to(torch.bfloat16), name="tiny16")
    found = LogitLens().run(model, tokens)
    assert found.kl.dtype == torch.float32
    assert float(found.kl[-1].abs().max()) < 1e-3


def test_sites_that_are_not_of_the_stream_are_refused(tiny, tokens):
    with pytest.raises(SiteError, match=r"layers\.0\.z \[batch position head d_head\]"):
        LogitLens(sites="layers.*.z").run(tiny, tokens)


def test_the_config_survives_json():
    assert from_json(LogitLens, to_json(LogitLens(k=3))) == LogitLens(k=3)

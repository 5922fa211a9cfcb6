"""Bad input: one clear line of ours each, and nothing changed."""

import warnings

import pytest
import torch
from torch import nn

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import EditError, InputError, JackfieldError, ModelError, SiteError

LONG = torch.ones(1, 65, dtype=torch.long)
X = torch.randn(2, 7, 32)
SITE = "layers.1.resid_post"


def add(vector=None, at=SITE, **settings):
    return E.Add(torch.ones(32) if vector is None else vector, at=at, **settings)


# what is done -> the error and words that its message must have
CASES = {
    "unknown site": (
        lambda m, t: m.run(t, sites=["layers.1.resid_pots"]),
        (SiteError, "Did you mean layers.1.resid_post"),
    ),
    "unknown site of an edit": (
        lambda m, t: m.run(t, edits=[add(at="layers.1.resid_pots")]),
        (SiteError, "Did you mean layers.1.resid_post"),
    ),
    "site that the model lacks": (
        lambda m, t: m.run(t, sites=["layers.1.router"]),
        (SiteError, "a site that this model has (embed, resid_pre, attn_in"),
    ),
    "layer out of range": (
        lambda m, t: m.run(t, sites=["layers.3.z"]),
        (SiteError, "a layer from 0 to 2, got layers.3.z"),
    ),
    "layer out of range in an edit": (
        lambda m, t: m.editing([add(at="layers.99.resid_post")]).__enter__(),
        (SiteError, "a layer from 0 to 2"),
    ),
    "empty prompt list": (
        lambda m, t: m.run([]),
        (InputError, "at least one text, got an empty list"),
    ),
    "empty string": (
        lambda m, t: m.run(["w7", ""]),
        (InputError, "texts with at least a token, got ''"),
    ),
    "only blanks": (
        lambda m, t: m.run("   "),
        (InputError, "texts with at least a token"),
    ),
    "prompt over the context": (
        lambda m, t: m.run(" ".join(["w7"] * 65)),
        (InputError, "at most 64 tokens (the model's context), got 65"),
    ),
    "ids over the context": (
        lambda m, t: m.run(LONG),
        (InputError, "at most 64 tokens (the model's context), got 65"),
    ),
    "mapping over the context": (
        lambda m, t: m.run({"input_ids": LONG}),
        (InputError, "at most 64 tokens (the model's context), got 65"),
    ),
    "ids outside the vocabulary": (
        lambda m, t: m.run(torch.tensor([[5, 101]])),
        (InputError, "ids from 0 to 100, got 101"),
    ),
    "negative ids": (
        lambda m, t: m.run(torch.tensor([[5, -1]])),
        (InputError, "ids from 0 to 100, got -1"),
    ),
    "no ids": (
        lambda m, t: m.run(torch.zeros(1, 0, dtype=torch.long)),
        (InputError, "token ids [batch, position], got [1, 0]"),
    ),
    "ids of three axes": (
        lambda m, t: m.run(t[None]),
        (InputError, "token ids [batch, position], got [1, 2, 7]"),
    ),
    "masks as ids": (
        lambda m, t: m.run(t.bool()),
        (InputError, "token ids [batch, position], got [2, 7] torch.bool"),
    ),
    "nothing to run on": (
        lambda m, t: m.run(None),
        (InputError, "text, texts, messages, token ids [batch, position] or tensors, got NoneType"),
    ),
    "lists of ids": (
        lambda m, t: m.run([[5, 6]]),
        (InputError, "token ids [batch, position] or tensors, got list"),
    ),
    "wrong vector width": (
        lambda m, t: m.run(t, edits=[add(torch.ones(31))]),
        (EditError, "layers.1.resid_post, Add: expected a tensor that fits [batch=2, position=7, "),
    ),
    "wrong width inside attention": (
        lambda m, t: m.run(t, edits=[add(at="layers.1.z")]),
        (EditError, "layers.1.z, Add: expected a tensor that fits [batch=2, position=7, head=4, "),
    ),
    "wrong dtype of a vector": (
        lambda m, t: m.run(t, edits=[add(torch.ones(32, dtype=torch.int64))]),
        (EditError, "Add.vector: expected floating-point numbers, got torch.int64"),
    ),
    "NaN in a vector": (
        lambda m, t: m.run(t, edits=[add(torch.full((32,), torch.nan))]),
        (EditError, "Add.vector: expected finite numbers, got 32 NaN or Inf"),
    ),
    "Inf in a vector": (
        lambda m, t: m.run(t, edits=[add(torch.full((32,), torch.inf))]),
        (EditError, "Add.vector: expected finite numbers, got 32 NaN or Inf"),
    ),
    "edit on a read-only site": (
        lambda m, t: m.run(t, edits=[E.ZeroOut(at="cache.1.k")]),
        (SiteError, "cache.1.k, ZeroOut: expected a site that can be written"),
    ),
    "one edit for a list": (
        lambda m, t: m.run(t, edits=add()),
        (EditError, "edits: expected a list of edits, got one Add"),
    ),
    "one edit for a list, generating": (
        lambda m, t: m.generate(t, edits=add()),
        (EditError, "edits: expected a list of edits, got one Add"),
    ),
    "something else than edits": (
        lambda m, t: m.run(t, edits=[torch.ones(32)]),
        (EditError, "edits: expected a list of edits, got Tensor"),
    ),
    "no site": (
        lambda m, t: m.run(t, sites=[""]),
        (SiteError, "expected a name such as layers.5.resid_post"),
    ),
    "where that is no rule": (
        lambda m, t: m.run(t, edits=[add(where="promt")]),
        (EditError, "Did you mean prompt?"),
    ),
    "rows that are not there": (
        lambda m, t: m.run(t, edits=[add(where=jf.Rows((2,)))]),
        (EditError, "rows of 2, got [2]"),
    ),
    "start of another shape": (
        lambda m, t: m.run(t, start={"layers.1.resid_pre": X[:, :6]}),
        (InputError, "[batch, position, d_model] = [2, 7, 32], got [2, 6, 32]"),
    ),
    "cache of another batch": (
        lambda m, t: m.run(t[:1], past=m.run(t, cache=True).past),
        (InputError, "a cache of 1 rows, as the input has, got 2"),
    ),
    "something else than a cache": (
        lambda m, t: m.run(t, past=(X, X)),
        (InputError, "expected a cache of transformers, got tuple"),
    ),
    "nothing to unembed": (
        lambda m, t: jf.wrap(nn.Linear(2, 2)).unembed(X),
        (ModelError, "a model whose blocks are known, got Linear"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line_and_nothing_changed(case, talker, tokens, traces):
    do, (kind, words) = CASES[case]
    before = traces(talker.module)
    weights = {name: p.detach().clone() for name, p in talker.module.named_parameters()}
    with pytest.raises(kind) as caught:
        do(talker, tokens)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert isinstance(caught.value, JackfieldError)
    assert traces(talker.module) == before
    assert all(torch.equal(p, weights[name]) for name, p in talker.module.named_parameters())
    talker.run(tokens)  # and it is free again


def test_no_tokenizer(tiny):
    for do in (tiny.run, tiny.tokenize, tiny.generate):
        with pytest.raises(InputError, match=r"a tokenizer, to run on text, got none\. Give token"):
            do("w7")


def test_no_head(tiny, tokens):
    base = jf.wrap(tiny.module.model, name="base")
    with pytest.raises(SiteError, match="expected logits, got a model without a head"):
        _ = base.run(tokens).logits
    with pytest.raises(ModelError, match="a language model with a head"):
        base.generate(tokens)


def test_a_module_is_expected():
    with pytest.raises(ModelError, match=r"jf\.wrap: expected an nn\.Module, got str"):
        jf.wrap("smollm2")


def test_an_edit_without_a_place_is_pythons_error():
    with pytest.raises(TypeError, match="at"):
        E.ZeroOut()


def test_good_input_warns_of_nothing(talker, tokens):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        talker.run(tokens, sites=["layers.*.pattern"], edits=[add()])
        talker.generate(["w7 w8", "w9"], edits=[add()], max_new_tokens=2)

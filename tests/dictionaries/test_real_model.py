"""On the default model: a small dictionary of a middle layer says more than silence would."""

import pytest
import torch

import jackfield as jf
from jackfield.dictionaries import TopK, index_features

SITE = "layers.15.resid_post"
TEXT = "The committee published its report on the bridge in the spring of the next year."


@pytest.fixture(scope="module")
def batch(smollm2):
    corpus = jf.corpus("docs", limit=60)
    return smollm2.stream(corpus, sites=[SITE], max_tokens=4000).collect()


@pytest.fixture(scope="module")
def stream(batch):
    return jf.Stream.from_tensor(
        batch[SITE],
        site=SITE,
        tokens=batch.tokens,
        documents=batch.documents,
        positions=batch.positions,
    )


@pytest.fixture(scope="module")
def sae(stream):
    return TopK(latents=512, k=32, rows=40_000, batch=256).fit(stream, progress=False)


def loss(model, edits):
    with model.editing(edits):
        return float(model.module(**model.tokenize([TEXT], labels=True)).loss.detach())


def test_it_explains_most_of_the_variance(sae, stream):
    assert sae.measure(stream).fvu < 0.3


@torch.no_grad()
def test_splicing_costs_less_than_zero_ablation(smollm2, sae):
    plain = loss(smollm2, [])
    kept = loss(smollm2, sae.edits("splice_with_error"))
    spliced = loss(smollm2, sae.edits())
    zeroed = loss(smollm2, [jf.edits.ZeroOut(at=SITE, where="~sinks")])
    assert kept == plain
    assert plain < spliced < (plain + zeroed) / 2


def test_features_are_shown_with_their_texts(smollm2, sae, stream):
    index = index_features(sae, stream, smollm2)
    latents = index.interesting(3)
    assert len(latents) == 3
    report = index.show(latents[0])
    kinds = ["tokens", "tokens", "columns", "columns", "bars", "columns"]
    assert [block.kind for block in report.blocks] == kinds
    effects = report.blocks[4]
    assert max(effects.values) > 0.1, "percentage points"

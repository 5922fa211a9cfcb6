"""The Python interface, exactly as the design's example reads."""

from pathlib import Path

import pytest

import jackfield as jf


def example(work: Path, max_tokens: int, latents: int) -> None:
    model = jf.load("smollm2")
    run = model.run(["The capital of France is"], sites=["layers.*.resid_post", "layers.5.pattern"])
    assert run.logits.shape[:2] == run["layers.10.resid_post"].shape[:2]
    assert run.stack("layers.*.resid_post").shape == (30, 1, 5, 576)

    acts = str(work / "acts")
    stream = model.stream(jf.corpus("docs"), sites=["layers.15.resid_post"], max_tokens=max_tokens)
    store = stream.write(acts)
    store = jf.Store(acts)
    assert store.rows == max_tokens
    sae = jf.dictionaries.TopK(latents=latents, k=32).fit(store.stream("layers.15.resid_post"))

    calm = jf.steering.MeanDifference().fit(
        model,
        positive=["I feel at peace."],
        negative=["I am furious."],
        at="layers.15.resid_post",
    )
    made = model.generate("How was your day?", edits=calm.edits(strength=4.0), max_new_tokens=60)
    assert made.texts[0] != model.generate("How was your day?", max_new_tokens=60).texts[0]

    before = model.module(**model.tokenize(["The capital of France is Paris"], labels=True)).loss
    with model.editing(sae.edits(mode="splice")):
        loss = model.module(**model.tokenize(["The capital of France is Paris"], labels=True)).loss
        loss.backward()
    after = model.module(**model.tokenize(["The capital of France is Paris"], labels=True)).loss
    assert after.item() == before.item()
    assert loss.item() != before.item()
    model.module.zero_grad()


@pytest.mark.slow
def test_the_example_of_the_design_runs(tmp_path: Path) -> None:
    example(tmp_path, max_tokens=50_000, latents=2048)


def test_the_example_of_the_design_runs_in_small(tmp_path: Path) -> None:
    example(tmp_path, max_tokens=1500, latents=128)

"""Activation patching against full runs, plain hooks, and a model whose circuit is planted."""

from typing import Any

import pytest
import torch

import jackfield as jf
from jackfield.circuits import ActivationPatching, Custom, LogitDifference, patch
from jackfield.core.errors import InputError, SiteError
from jackfield.edits import Replace

CLEAN = torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]])
CORRUPTED = torch.tensor([[11, 12, 93, 14, 15, 16], [21, 22, 83, 24, 25, 26]])
METRIC = LogitDifference(answer=5, wrong=9)


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., 5] - logits[..., 9]


def grid(model: jf.Model, **options: Any) -> jf.circuits.PatchGrid:
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "metric": METRIC} | options
    return patch(model, **given)


def last_logits(model: jf.Model, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
    return model.run(tokens, **options).logits[:, -1]


@pytest.mark.parametrize(
    ("site", "direction"),
    [
        ("resid_post", "denoise"),
        ("resid_post", "noise"),
        ("resid_mid", "denoise"),
        ("v", "denoise"),
        ("pattern", "noise"),
    ],
)
def test_each_cell_equals_a_full_run_with_that_position_replaced(tiny64, site, direction):
    found = grid(tiny64, sites=f"layers.*.{site}", direction=direction)
    into, out_of = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    ends = [difference(last_logits(tiny64, each)) for each in (CLEAN, CORRUPTED)]
    for layer in (0, 2):
        name = f"layers.{layer}.{site}"
        value = tiny64.run(out_of, sites=[name])[name]
        for position in range(6):
            edit = Replace(value, at=name, where=[position])
            patched = difference(last_logits(tiny64, into, edits=[edit]))
            share = (patched - ends[1]) / (ends[0] - ends[1]).mean()
            torch.testing.assert_close(found.per_pair[:, layer, position], share)


def test_each_head_equals_a_full_run_with_that_head_replaced(tiny64):
    found = grid(tiny64, sites="layers.*.z", by="head")
    assert found.values.shape == (3, 4)
    ends = [difference(last_logits(tiny64, each)).mean() for each in (CLEAN, CORRUPTED)]
    for layer in range(3):
        for head in range(4):
            name = f"layers.{layer}.z[head={head}]"
            edit = Replace(tiny64.run(CLEAN, sites=[name])[name], at=name)
            patched = difference(last_logits(tiny64, CORRUPTED, edits=[edit])).mean()
            share = (patched - ends[1]) / (ends[0] - ends[1])
            torch.testing.assert_close(found.values[layer, head], share)


def test_grouped_query_heads_are_counted_as_they_are(tiny64):
    assert grid(tiny64, sites="layers.*.k", by="head").values.shape == (3, 2)


def test_neurons_of_one_layer(tiny64):
    found = grid(tiny64, sites="layers.1.mlp_post", by="neuron", batch_tokens=100)
    name = "layers.1.mlp_post[unit=7]"
    edit = Replace(tiny64.run(CLEAN, sites=[name])[name], at=name)
    patched = difference(last_logits(tiny64, CORRUPTED, edits=[edit])).mean()
    ends = [difference(last_logits(tiny64, each)).mean() for each in (CLEAN, CORRUPTED)]
    assert found.values.shape == (1, 48)
    torch.testing.assert_close(found.values[0, 7], (patched - ends[1]) / (ends[0] - ends[1]))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_whole_layer_of_the_residual_stream_is_the_whole_effect(tiny64, direction):
    found = grid(tiny64, by=None, direction=direction)
    whole = torch.full((3, 1), 1.0 if direction == "denoise" else 0.0, dtype=torch.float64)
    torch.testing.assert_close(found.values, whole, atol=1e-10, rtol=0)


def test_the_last_layer_is_all_at_the_last_position(tiny64):
    last = grid(tiny64).values[-1]
    expected = torch.tensor([0, 0, 0, 0, 0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(last, expected, atol=1e-10, rtol=0)


def test_what_is_equal_in_both_prompts_has_exactly_no_effect(tiny):
    # Positions before the first difference hold the same activations: clean into clean is 1,
    # corrupted into corrupted 0, to the last bit.
    assert torch.equal(grid(tiny).values[:, :2], torch.zeros(3, 2, dtype=torch.float64))
    noised = grid(tiny, direction="noise").values[:, :2]
    assert torch.equal(noised, torch.ones(3, 2, dtype=torch.float64))


def test_batches_do_not_change_the_grid(tiny64):
    small, large = (grid(tiny64, batch_tokens=size).values for size in (1, 10_000))
    torch.testing.assert_close(small, large, atol=1e-12, rtol=0)


def test_several_pairs_share_the_mean_gap(tiny64):
    whole = grid(tiny64)
    gaps = whole.clean - whole.corrupted
    for row in range(2):
        metric = Custom(difference)
        alone = grid(tiny64, clean=CLEAN[[row]], corrupted=CORRUPTED[[row]], metric=metric)
        torch.testing.assert_close(whole.per_pair[row] * gaps.mean(), alone.values * gaps[row])


def planted(model: jf.Model) -> jf.Model:
    """Only head 2 of block 1 moves anything: all else that writes to the stream is silent."""
    with torch.no_grad():
        for layer, block in enumerate(model.module.model.layers):
            block.mlp.down_proj.weight.zero_()
            kept = block.self_attn.o_proj.weight[:, 16:24].clone()
            block.self_attn.o_proj.weight.zero_()
            if layer == 1:
                block.self_attn.o_proj.weight[:, 16:24] = kept
    return model


def test_a_planted_circuit_is_found_and_nothing_else(tiny64):
    model = planted(tiny64)
    metric = Custom(difference, smallest_gap=1e-6)
    stream = grid(model, metric=metric).values
    expected = torch.zeros(3, 6, dtype=torch.float64)
    expected[0, 2] = 1  # at the token that differs, until block 1 ...
    expected[1:, 5] = 1  # ... moves it to the last one
    torch.testing.assert_close(stream, expected, atol=1e-8, rtol=0)
    heads = grid(model, metric=metric, sites="layers.*.z", by="head").values
    only = torch.zeros(3, 4, dtype=torch.float64)
    only[1, 2] = 1
    torch.testing.assert_close(heads, only, atol=1e-8, rtol=0)
    mlps = grid(model, metric=metric, sites="layers.*.mlp_out", by=None).values
    assert torch.equal(mlps, torch.zeros(3, 1, dtype=torch.float64))


def test_the_sentence_follows_the_planted_path(tiny64):
    said = grid(planted(tiny64), metric=Custom(difference, smallest_gap=1e-6)).sentence()
    assert "(position 2) in layers 0–0, then at '…' (position 5) in layers 1–2" in said
    assert "between layers 0 and 1" in said


def test_bfloat16_brings_the_whole_effect_back(tiny):
    model = jf.wrap(tiny.module.to(torch.bfloat16), name="tiny16")
    found = grid(model, metric=Custom(difference, smallest_gap=1e-3), by=None)
    torch.testing.assert_close(
        found.values, torch.ones(3, 1, dtype=torch.float64), atol=0.1, rtol=0
    )


def test_the_model_is_left_as_it_was(tiny):
    before = last_logits(tiny, CLEAN)
    grid(tiny)
    assert torch.equal(last_logits(tiny, CLEAN), before)


def test_the_embedding_is_a_site_too(tiny64):
    found = grid(tiny64, sites="embed")
    expected = torch.tensor([[0, 0, 1.0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, atol=1e-10, rtol=0)


def test_the_config_survives_json():
    from jackfield.core.config import from_json, to_json

    study = ActivationPatching(sites="layers.3.z", by="head", direction="noise")
    assert from_json(ActivationPatching, to_json(study)) == study


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"corrupted": CORRUPTED[:, :5]}, InputError, r"\[2, 6\] and \[2, 5\].*position 2"),
        ({"corrupted": CLEAN}, InputError, "the same prompts twice"),
        ({"metric": Custom(lambda logits: logits[..., 5] * 0)}, InputError, "clean 0, corrupted 0"),
        ({"metric": LogitDifference([5, 6, 7], 9)}, InputError, "one answer, or 2, got 3"),
        ({"labels": ["a", "b"]}, InputError, "expected 6 labels, got 2"),
        ({"sites": "logits"}, SiteError, "one kind of site in the blocks"),
        ({"sites": "layers.0.*"}, SiteError, "one kind of site in the blocks"),
        ({"by": "head"}, SiteError, "heads"),
        ({"sites": "layers.9.resid_post"}, SiteError, "layer from 0 to 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_patched_is_refused(tiny, options, error, message):
    with pytest.raises(error, match=message):
        grid(tiny, **options)


def test_plain_hooks_give_the_same_cells(smollm2):
    clean = "When John and Mary went to the store, John gave a bottle of milk to"
    corrupted = "When John and Anna went to the store, John gave a bottle of milk to"
    ids = [smollm2.tokenizer(text, return_tensors="pt").input_ids for text in (clean, corrupted)]
    mary, anna = (smollm2.tokenizer(name).input_ids[0] for name in (" Mary", " Anna"))
    layers = smollm2.module.model.layers
    found = patch(
        smollm2,
        clean=clean,
        corrupted=corrupted,
        metric=LogitDifference(" Mary", " Anna"),
        sites="layers.22:24.resid_post",
    )

    def measured(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = smollm2.module(tokens, use_cache=False).logits[0, -1]
        return logits[mary] - logits[anna]

    ends = [measured(each) for each in ids]
    for layer, position in [(22, 15), (23, 15), (23, 3)]:
        kept: list[torch.Tensor] = []
        reader = layers[layer].register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        measured(ids[0])
        reader.remove()

        def swap(module: Any, args: Any, out: Any, kept: Any = kept, at: int = position) -> Any:
            new = out.clone()
            new[:, at] = kept[0][:, at]
            return new

        writer = layers[layer].register_forward_hook(swap)
        share = (measured(ids[1]) - ends[1]) / (ends[0] - ends[1])
        writer.remove()
        assert float(found.values[layer - 22, position]) == pytest.approx(float(share), abs=2e-4)

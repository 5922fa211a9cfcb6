"""The doctor passes every family, and fails each model that is made ill on purpose, by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.model.tiny_models import (
    MODELS,
    HandWritten,
    seeded,
    tiny,
    tiny_gemma3_with_pictures,
)

import jackfield as jf
from jackfield.core.errors import InputError
from jackfield.edits import Edit
from jackfield.model import attention, inputs, plan, run, session, views
from jackfield.model.doctor import examine, subject
from jackfield.model.doctor.diagnosis import judge, spell
from jackfield.model.families import Family, family_of
from jackfield.model.mobilenet import MobileNetV2
from jackfield.model.model import Model

Patch = pytest.MonkeyPatch
# Variants of a table that another model shows as well.
SECOND = {
    "mistral", "qwen2", "smollm3", "llama_tied", "gemma3", "stablelm", "stablelm_parallel", "olmo",
    "cohere2", "phi_qk_norm", "gpt_bigcode", "gpt_bigcode_heads", "gpt_neo", "falcon_new_one_norm",
    "qwen3_moe", "electra", "starcoder2", "bert_base",
}  # fmt: skip
FAMILIES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SECOND else []) for name in MODELS
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def altered(name: str, **lines: str) -> Model:
    """A tiny model whose table has these lines instead of its own."""
    module = tiny(name)
    family = family_of(module.config)
    assert family is not None
    family = replace(family, roles={**family.roles, **lines})
    return Model(module, name=name, family=family)


def failures(model: Model) -> str:
    """All that the doctor holds against a model, as one text."""
    diagnosis = examine(model)
    assert not diagnosis.ok
    return "\n".join(f"{r['check']} | {r['sites']} | {r['remark']}" for r in diagnosis.failures)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_healthy(name):
    diagnosis = examine(jf.wrap(tiny(name), name=name))
    assert diagnosis.ok, diagnosis


def test_gemma3_with_its_vision_tower_is_healthy():
    model = jf.wrap(tiny_gemma3_with_pictures())
    assert model.sites.base == "model.language_model."
    assert examine(model).ok


def test_a_hand_written_decoder_is_healthy():
    assert examine(jf.wrap(seeded(HandWritten()).eval())).ok


@pytest.mark.parametrize("kind", ["eager", "batched_mm"])
def test_a_mixture_is_healthy_however_its_experts_are_run(kind):
    module = tiny("mixtral")
    module.set_experts_implementation(kind)
    assert examine(jf.wrap(module)).ok


def test_a_family_is_healthy_with_eager_attention():
    module = tiny("llama")
    module.set_attn_implementation("eager")
    assert examine(jf.wrap(module)).ok


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_low_precision_is_healthy(name):
    assert examine(jf.wrap(tiny(name, torch.bfloat16))).ok


@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_double_precision_is_healthy(name):
    assert examine(jf.wrap(tiny(name, torch.float64))).ok


def test_a_cnn_gets_the_checks_that_apply():
    pictures = torch.randn(2, 3, 32, 32)
    diagnosis = examine(jf.wrap(seeded(MobileNetV2(classes=5)).eval()), inputs=pictures)
    assert diagnosis.ok, diagnosis
    results = [row["result"] for row in diagnosis.rows]
    assert results.count("pass") >= 7
    assert "not applicable" in results


def test_modes_and_weights_are_left_as_they_were():
    module = tiny("llama").train()
    module.model.norm.eval()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    examine(jf.wrap(module))
    assert module.training
    assert not module.model.norm.training
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())


@pytest.mark.slow
def test_the_default_model_is_healthy(smollm2):
    diagnosis = examine(smollm2)
    assert diagnosis.ok, diagnosis


# Tables that lie ------------------------------------------------------------------------------

LIES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "attn_out points at the MLP": (
        "llama",
        {"attn_out": "mlp:out = self_attn.o_proj(join(z))"},
        ("attn_out = self_attn.o_proj(join(z)) | layers.0,1,2.attn_out", "Δ at attn_out"),
    ),
    "resid_mid is written at the norm's input": (
        "llama",
        {"resid_mid": "post_attention_layernorm:in = resid_pre + attn_out"},
        ("layers.0.resid_mid → layers.0.resid_post",),
    ),
    "k and v are swapped": (
        "gpt2",
        {"k_proj": "attn.c_attn:out joined:2", "v_proj": "attn.c_attn:out joined:1"},
        ("v = v_proj | layers.0,1,2.v", "k = k_proj | layers.0,1,2.k"),
    ),
    "q and k are swapped": (
        "gpt_neox",
        {
            "q_proj": "attention.query_key_value:out grouped:1",
            "k_proj": "attention.query_key_value:out grouped:0",
        },
        ("q = rotary(q_proj) | layers.0,1,2.q",),
    ),
    "q and k are swapped where attention cannot be tapped": (
        "falcon_sequential",
        {
            "q_proj": "self_attention.query_key_value:out grouped:1",
            "k_proj": "self_attention.query_key_value:out grouped:0",
        },
        ("a query acts at its position, k and v from theirs on | layers.0,1,2.z",),
    ),
    "k and v are swapped where attention cannot be tapped": (
        "falcon_new",
        {
            "k_proj": "self_attention.query_key_value:out grouped:2",
            "v_proj": "self_attention.query_key_value:out grouped:1",
        },
        ("z at position 0 = v_proj, each head its own | layers.0,1,2.z",),
    ),
    "heads are laid out otherwise": (
        "falcon",
        {part: f"self_attention.query_key_value:out joined:{i}"
         for i, part in enumerate(("k_proj", "v_proj", "q_proj"))},
        ("z at position 0 = v_proj",),
    ),
    "attn_in also feeds the residual": (
        "bert",
        {"attn_in": "attention:in = resid_pre"},
        ("layers.0.attn_in → layers.0.resid_mid",),
    ),
    "mlp_in is the norm's input": (
        "llama",
        {"mlp_in": "post_attention_layernorm:in = post_attention_layernorm(resid_mid)"},
        ("mlp_in = post_attention_layernorm(resid_mid) | layers.0,1,2.mlp_in",),
    ),
    "mlp_out is before the post-norm": (
        "gemma2",
        {"mlp_out": "mlp:out = post_feedforward_layernorm(mlp.down_proj(mlp_post))"},
        ("resid_post = resid_mid + mlp_out | layers.0,1,2.resid_post",),
    ),
    "ffn's output holds the residual": (
        "mpt",
        {"mlp_out": "ffn:out = ffn.down_proj(mlp_post)"},
        ("mlp_out = ffn.down_proj(mlp_post) | layers.0,1,2.mlp_out",),
    ),
    "mlp_post is before the product": (
        "llama",
        {"mlp_post": "mlp.act_fn:out = mlp.act_fn(mlp_pre) * mlp.up_proj(mlp_in)"},
        ("mlp_post = mlp.act_fn(mlp_pre) * mlp.up_proj(mlp_in) | layers.0,1,2.mlp_post",),
    ),
    "a sequential block is called parallel": (
        "gpt_neox_sequential",
        {"mlp_in": "mlp:in = post_attention_layernorm(resid_pre)"},
        ("mlp_in = post_attention_layernorm(resid_pre) | layers.0,1,2.mlp_in",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", list(LIES))
def test_a_lying_table_fails_by_the_site_that_is_wrong(lie, monkeypatch):
    monkeypatch.setattr(subject, "COPY_LIMIT", 0)  # float32 shows it as well
    name, lines, expected = LIES[lie]
    found = failures(altered(name, **lines))
    for text in expected:
        assert text in found, found


# Machinery that is broken ---------------------------------------------------------------------


def break_clone(patch: Patch) -> None:
    patch.setattr(run, "_changed_in_place", lambda session: set())
    patch.setattr(plan.Plan, "_fragile", lambda self, site: False)


def break_write(patch: Patch) -> None:
    """A write that goes nowhere, though a read shows it."""
    whole = views.View(lambda raw, _: views.first(raw), lambda raw, new, _: raw)
    patch.setitem(views._VIEWS, "", lambda: whole)


def break_rounding(patch: Patch) -> None:
    """An error far below what float32 can show."""
    patch.setattr(plan, "mix", lambda pattern, call: attention.mix(pattern, call) * (1 + 3e-6))


def break_positions(patch: Patch) -> None:
    patch.setattr(inputs, "positions_of", lambda mask: torch.ones_like(mask).long().cumsum(-1) - 1)
    patch.setattr(
        "jackfield.model.model.positions_of",
        lambda mask: torch.ones_like(mask).long().cumsum(-1) - 1,
    )


def break_decoding(patch: Patch) -> None:
    patch.setattr(session, "_past_length", lambda call: 0)


def break_gradients(patch: Patch) -> None:
    whole = run.Run.gradients
    patch.setattr(
        run.Run,
        "gradients",
        lambda self, scalar: {name: 1.5 * grad for name, grad in whole(self, scalar).items()},
    )


def break_leaving(patch: Patch) -> None:
    """`editing` leaves a hook behind."""
    editing = Model.editing

    def leaky(self: Model, edits: list[Edit]) -> Any:
        self.module.register_forward_hook(lambda module, args, output: None)
        return editing(self, edits)

    patch.setattr(Model, "editing", leaky)


def break_start(patch: Patch) -> None:
    giver = run._giver
    patch.setattr(run, "_giver", lambda owner, value: giver(owner, value * 1.0001))


BREAKS: dict[str, tuple[str, Callable[[Patch], None], str]] = {
    "the model's in-place addition reaches what was read": (
        "falcon", break_clone, "mlp_out = mlp.dense_4h_to_h(mlp_post) | layers.0,1,2.mlp_out",
    ),
    "a write goes nowhere": ("llama", break_write, "Δ at resid_post does what its equations say"),
    "an error smaller than float32": ("llama", break_rounding, "Δ at pattern"),
    "positions count padding": ("llama", break_positions, "padding left = right"),
    "positions begin anew at each step": ("llama", break_decoding, "token by token, with edits"),
    "gradients are half as large again": ("llama", break_gradients, "run.gradients"),
    "a hook stays": ("llama", break_leaving, "hooks left"),
    "a start is a little off": ("llama", break_start, "a part of the forward is that of the whole"),
}  # fmt: skip


@pytest.mark.parametrize("breakage", list(BREAKS))
def test_broken_machinery_fails(breakage, monkeypatch):
    name, make_ill, expected = BREAKS[breakage]
    make_ill(monkeypatch)
    assert expected in failures(altered(name))


def test_positions_that_begin_at_zero_fail_for_roberta(monkeypatch):
    monkeypatch.setattr(inputs, "first_position", lambda module: 0)
    monkeypatch.setattr("jackfield.model.model.first_position", lambda module: 0)
    assert "no edit: the bare module's output" in failures(altered("roberta"))


def test_an_exception_of_the_patient_is_a_failure_not_the_end(monkeypatch):
    monkeypatch.setattr(Model, "unembed", lambda self, x: 1 / 0)
    assert "ZeroDivisionError" in failures(altered("llama"))


# The table ------------------------------------------------------------------------------------


def test_a_difference_must_shrink_in_float64():
    assert judge("x", {"a": 1e-7}, 1e-5, twin={"a": 1e-16}).result == "pass"
    assert judge("x", {"a": 1e-7}, 1e-5, twin={"a": 1e-8}).result == "fail"
    assert judge("x", {"a": 1e-3}, 1e-5, twin={"a": 0.0}).result == "fail"
    assert judge("x", {"a": float("nan")}, 1e-5).result == "fail"


def test_sites_are_spelt_in_short():
    assert spell(["layers.0.z", "layers.2.z", "logits"]) == "layers.0,2.z logits"


def test_a_diagnosis_prints_as_a_table_and_gives_its_rows():
    diagnosis = examine(altered("llama"))
    lines = str(diagnosis).splitlines()
    assert lines[0].split()[:3] == ["check", "sites", "result"]
    assert lines[-1].startswith("llama: healthy; ")
    assert {"check", "sites", "result", "measured", "limit", "remark"} == set(diagnosis.rows[0])


def test_inputs_that_do_not_run_are_said(tiny):
    with pytest.raises(InputError, match="examine"):
        examine(tiny, inputs=torch.zeros(2, 3, dtype=torch.float32))


def test_a_family_can_be_given(tiny):
    assert isinstance(tiny.family, Family)

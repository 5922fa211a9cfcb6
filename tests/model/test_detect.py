"""Detection finds what the table says, keeps only what is proven, and costs nothing for a CNN."""

from dataclasses import replace

import pytest
import torch
from tests.model.tiny_models import MODELS, HandWritten, seeded, tiny
from torch import nn

import jackfield as jf
from jackfield.edits import Add
from jackfield.model import detect as detecting
from jackfield.model.detect import detect
from jackfield.model.doctor import examine
from jackfield.model.doctor.subject import admit
from jackfield.model.families import family_of
from jackfield.model.mobilenet import MobileNetV2
from jackfield.model.model import Model

# Fused projections and routers are not looked for; attention that is no module's call has no heads.
FUSED = {"q_proj", "k_proj", "v_proj"}
LACKS = {
    "llama": set(), "qwen3": set(), "gemma2": set(), "olmo2": set(), "phi": set(),
    "cohere": set(), "bert": set(), "vit": set(),
    "gpt2": FUSED,
    "gpt_neox": FUSED,
    "mpt": FUSED | {"z"},
    "falcon": FUSED | {"z"},
    "opt": {"q_proj"},  # q is scaled
    "mixtral": {"mlp_pre", "mlp_post", "router", "router_topk"},
    "olmoe": FUSED | {"mlp_pre", "mlp_post", "router", "router_topk"},
}  # fmt: skip
# Families that the table does not list, by their transformers config.
UNLISTED = {
    "nemotron": set(),
    "arcee": set(),
    "glm4": {"mlp_pre", "mlp_post"},  # gate and up are one matrix
    "granite": {"attn_out", "mlp_out", "resid_mid"},  # both are scaled on their way to the stream
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", list(LACKS))
def test_detection_finds_what_the_table_lists(name):
    module = tiny(name)
    known, found = family_of(module.config), detect(module)
    assert found is not None
    assert found.name.startswith("detected: ")
    assert set(known.places) - set(found.places) <= LACKS[name]
    assert (found.topology, found.attention) == (known.topology, known.attention)
    assert found.returns_tuple == known.returns_tuple


@pytest.mark.parametrize("name", ["gemma2", "falcon", "bert", "opt"])
def test_what_is_detected_is_healthy(name):
    module = tiny(name)
    assert examine(Model(module, family=detect(module))).ok


@pytest.mark.parametrize("kind", list(UNLISTED))
def test_an_unlisted_family_is_detected_at_first_use(kind):
    import transformers

    _, _, sizes = MODELS["llama"]
    own = {"residual_multiplier": 0.5} if kind == "granite" else {"head_dim": 8}
    config = transformers.AutoConfig.for_model(kind, **sizes, **own, pad_token_id=0)
    model = jf.wrap(seeded(transformers.AutoModelForCausalLM.from_config(config)).eval())
    assert family_of(model.config) is None
    assert not UNLISTED[kind] & set(model.sites.roles())
    assert {"resid_pre", "resid_post", "q", "pattern", "z"} <= set(model.sites.roles())
    assert examine(model).ok


def test_a_hand_written_decoder_has_roles_and_positions():
    model = jf.wrap(seeded(HandWritten()).eval())
    roles = set(model.sites.roles())
    assert {"attn_in", "attn_out", "resid_mid", "mlp_in", "mlp_pre", "mlp_post", "mlp_out"} <= roles
    assert {"embed", "final_norm", "logits"} <= roles
    assert not {"q", "z", "q_proj"} & roles  # nothing tells the heads
    ids = torch.randint(0, 90, (2, 5))
    site, last = "layers.1.resid_post", "layers.2.resid_post"
    changed = model.run(ids, [site, last], [Add(torch.ones(32), at=site, where=[2])])
    moved = (changed[site] - model.run(ids, [site])[site])[..., 0].round()
    assert moved.tolist() == [[0, 0, 1, 0, 0]] * 2
    assert torch.equal(changed.logits, model.unembed(changed[last]))


@pytest.mark.parametrize(
    "lie",
    [
        {"mlp_out": "mlp.gate_proj:out = mlp.down_proj(mlp_post)"},
        {"resid_mid": "post_attention_layernorm:in = resid_pre + attn_out"},
        {"attn_in": "input_layernorm:in = input_layernorm(resid_pre)"},
        {"mlp_pre": "mlp.up_proj:out = mlp.gate_proj(mlp_in)"},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_a_wrong_proposal_is_dropped_by_the_proof(lie):
    module = tiny("llama")
    family = family_of(module.config)
    wrong = replace(family, roles={**family.roles, **lie}, blocks="model.layers", final_norm=None)
    patient = admit(Model(module, family=wrong))
    with torch.no_grad():
        proven = detecting._proven(patient, wrong)
    assert proven is not None
    assert not set(lie) & set(proven.places)
    assert {"resid_pre", "resid_post"} <= set(Model(module, family=proven).sites.roles())


def test_a_cnn_is_not_run_and_keeps_its_module_paths(monkeypatch):
    module = MobileNetV2(classes=5)
    monkeypatch.setattr(module, "forward", lambda x: pytest.fail("detection ran the CNN"))
    model = jf.wrap(module)
    assert model.family is None
    assert model.sites.names() == []
    assert "features.3.conv.1:out" in model.sites


def test_wrapping_runs_nothing(monkeypatch):
    module = seeded(HandWritten())
    monkeypatch.setattr(module, "forward", lambda x: pytest.fail("wrap ran the model"))
    jf.wrap(module)


class Failing(HandWritten):
    """Cannot be run on what detection makes up."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("needs two pictures and a sound")


def test_a_model_that_cannot_be_run_keeps_its_module_paths():
    model = jf.wrap(Failing())
    assert model.family is None
    assert "blocks.0.mlp:out" in model.sites


def test_a_list_that_is_no_stack_is_not_taken_for_one():
    class Branches(nn.Module):
        """Three attentions side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(50, 32)
            self.attention = nn.ModuleList(HandWritten().blocks)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.tokens(tokens)
            return sum(block(x) for block in self.attention)

    assert jf.wrap(seeded(Branches()).eval()).family is None


def test_modes_and_hooks_are_left_as_they_were():
    module = seeded(HandWritten()).train()
    detect(module)
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_model_in_low_precision_is_proven_on_a_copy():
    module = tiny("gpt2", torch.bfloat16)
    found = detect(module)
    assert found is not None
    assert {"attn_out", "resid_mid", "mlp_post"} <= set(found.places)
    assert module.lm_head.weight.dtype == torch.bfloat16


def test_weights_that_are_not_there_are_not_run():
    with torch.device("meta"):
        module = HandWritten()
    assert detect(module) is None

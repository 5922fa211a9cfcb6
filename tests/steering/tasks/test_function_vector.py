"""Function vectors against plain hooks, a planted head, and what must be refused."""

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import InputError, SiteError
from jackfield.steering.tasks.demonstration_difference import DemonstrationDifference
from jackfield.steering.tasks.function_vector import FunctionVector, written_by
from jackfield.steering.tasks.indirect_effect import indirect_effects
from jackfield.steering.tasks.last_token import answered, last_logits, read_last

AT = "layers.1.resid_post"
ROWS, LENGTH = 6, 8


def prompts(seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(1, 100, (ROWS, LENGTH), generator=draw)


def answers() -> torch.Tensor:
    return torch.arange(10, 10 + ROWS)


def hooked_z(model: jf.Model, tokens: torch.Tensor) -> torch.Tensor:
    """[layer, head, d_head] mean input of o_proj at the last token, by plain hooks."""
    seen, handles = [], []
    for block in model.module.model.layers:
        hook = block.self_attn.o_proj.register_forward_pre_hook
        handles.append(hook(lambda module, args: seen.append(args[0][:, -1].mean(dim=0))))
    with torch.no_grad():
        model.module(tokens)
    for handle in handles:
        handle.remove()
    return torch.stack(seen).unflatten(1, (4, 8))


def hooked_effect(
    model: jf.Model, tokens: torch.Tensor, layer: int, head: int, mean: torch.Tensor
) -> torch.Tensor:
    """[prompt] p(answer) with a head replaced minus without, by a plain hook and no cache."""

    def replace(module, args):
        changed = args[0].clone()
        changed[:, -1, 8 * head : 8 * head + 8] = mean
        return (changed,)

    def p() -> torch.Tensor:
        with torch.no_grad():
            probabilities = model.module(tokens).logits[:, -1].softmax(dim=-1)
        return probabilities[torch.arange(ROWS), answers()]

    plain = p()
    projection = model.module.model.layers[layer].self_attn.o_proj
    handle = projection.register_forward_pre_hook(replace)
    changed = p()
    handle.remove()
    return changed - plain


def test_effects_and_the_vector_are_those_of_plain_hooks(tiny64):
    plus, minus = prompts(1), prompts(2)
    means = hooked_z(tiny64, plus)
    effects = indirect_effects(tiny64, minus, answers(), means)
    for layer in range(3):
        for head in range(4):
            expected = hooked_effect(tiny64, minus, layer, head, means[layer, head])
            torch.testing.assert_close(effects[:, layer, head], expected, atol=1e-7, rtol=1e-5)
    fitted = FunctionVector(heads=3).fit(tiny64, positive=plus, negative=minus, answers=answers())
    by_hand = torch.zeros(32, dtype=torch.float64)
    order = effects.mean(dim=0).flatten().argsort(descending=True)[:3]
    for layer, head in (divmod(int(place), 4) for place in order):
        weight = tiny64.module.model.layers[layer].self_attn.o_proj.weight.detach()
        by_hand += weight[:, 8 * head : 8 * head + 8] @ means[layer, head]
    torch.testing.assert_close(fitted.vector, by_hand.float())
    assert [(each.layer, each.head) for each in fitted.heads] == [
        divmod(int(place), 4) for place in order
    ]


def test_all_heads_together_are_the_mean_attention_output_without_its_bias():
    """On a GPT-2 too, whose projection has a bias and is transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=24, n_head=3, vocab_size=101, n_positions=32)
    module = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for block in module.transformer.h:
            block.attn.c_proj.bias.normal_()
    model = jf.wrap(module, name="gpt2")
    read = read_last(model, prompts(1), ["layers.1.z", "layers.1.attn_out"])
    total = written_by(model, 1, read["layers.1.z"].mean(dim=0)).sum(dim=0)
    bias = module.transformer.h[1].attn.c_proj.bias.detach()
    torch.testing.assert_close(total, read["layers.1.attn_out"].mean(dim=0) - bias)


def test_a_planted_head_is_found_and_its_vector_gives_the_answer(tiny64):
    """Head 2 of block 1 is made to write the answer's own direction when token 5 was shown."""
    answer = 42
    with torch.no_grad():
        tiny64.module.lm_head.weight[answer] *= 3
        row = tiny64.module.lm_head.weight[answer]
        for each in tiny64.module.model.layers:
            each.mlp.down_proj.weight.zero_()
            each.self_attn.o_proj.weight.mul_(0.02)
        block = tiny64.module.model.layers[1].self_attn
        block.o_proj.weight[:, 16:24] = 0
        block.o_proj.weight[:, 16] = 40 * row / row.norm()
        block.v_proj.weight[8:16] = 0
        block.v_proj.weight[8] = tiny64.module.model.embed_tokens.weight[5]
    plus, minus = prompts(3), prompts(4)
    plus[:, ::2] = 5
    minus[minus == 5] = 6
    wanted = [answer] * ROWS
    fitted = FunctionVector(heads=1).fit(tiny64, positive=plus, negative=minus, answers=wanted)
    assert (fitted.heads[0].layer, fitted.heads[0].head) == (1, 2)
    before = last_logits(tiny64, minus).softmax(dim=-1)[:, answer]
    after = last_logits(tiny64, minus, fitted.edits()).softmax(dim=-1)[:, answer]
    assert bool((after >= before).all())
    assert float(after.mean()) > float(before.mean()) + 0.5
    assert bool(answered(tiny64, minus, wanted, fitted.edits(3.0)).all())
    others = fitted.effects.flatten()[torch.arange(12) != 6]  # the control: heads that do nothing
    assert float(others.abs().max()) < 0.1 * fitted.heads[0].effect


def test_the_difference_is_that_of_the_means_and_acts_on_the_last_token_only(tiny64):
    plus, minus = prompts(1), prompts(2)
    fitted = DemonstrationDifference().fit(tiny64, positive=plus, negative=minus)
    with torch.no_grad():
        means = [tiny64.module.model(x, output_hidden_states=True).hidden_states[2][:, -1].mean(0)
                 for x in (plus, minus)]  # fmt: skip
    torch.testing.assert_close(fitted.vector, (means[0] - means[1]).float())
    assert fitted.at == AT
    plain = tiny64.run(minus, sites=[AT])[AT]
    moved = tiny64.run(minus, sites=[AT], edits=fitted.edits(2.0))[AT] - plain
    assert not moved[:, :-1].any()
    expected = 2 * (means[0] - means[1]).expand(ROWS, -1)
    torch.testing.assert_close(moved[:, -1], expected, atol=1e-6, rtol=1e-5)
    everywhere = DemonstrationDifference(acts="~sinks").fit(tiny64, positive=plus, negative=minus)
    moved = tiny64.run(minus, sites=[AT], edits=everywhere.edits(2.0))[AT] - plain
    assert bool(moved[:, 1:].any(dim=-1).all())
    by_rule = tiny64.run(minus, sites=[AT], edits=fitted.edits(2.0, where=[2]))[AT] - plain
    assert by_rule.any(dim=-1).nonzero()[:, 1].unique().tolist() == [2]


def test_a_norm_is_the_length_of_the_stream_and_padding_changes_nothing(tiny64):
    plus, minus = prompts(1), prompts(2)
    fitted = DemonstrationDifference().fit(tiny64, positive=plus, negative=minus, at=AT)
    length = tiny64.run(plus, sites=[AT])[AT][:, -1].norm(dim=-1).mean()
    (edit,) = fitted.edits("norm:0.5")
    assert float((edit.strength * edit.vector).norm()) == pytest.approx(float(length) / 2, rel=1e-5)
    alone = [last_logits(tiny64, row[None]) for row in minus]
    torch.testing.assert_close(last_logits(tiny64, minus), torch.cat(alone))


def test_bad_input_is_refused(tiny64):
    plus, minus = prompts(1), prompts(2)
    sides = {"positive": plus, "negative": minus}
    with pytest.raises(InputError, match="an answer a prompt, got 2 for 6"):
        FunctionVector().fit(tiny64, **sides, answers=[3, 4])
    with pytest.raises(InputError, match="at least 13 heads, got 12"):
        FunctionVector(heads=13).fit(tiny64, **sides, answers=answers())
    with pytest.raises(InputError, match="positive: expected at least one prompt"):
        FunctionVector().fit(tiny64, positive=[], negative=minus, answers=answers())
    with pytest.raises(SiteError, match="expected one site"):
        FunctionVector().fit(tiny64, **sides, answers=answers(), at="layers.*.resid_post")
    with pytest.raises(InputError, match="a vector of length 0"):
        DemonstrationDifference().fit(tiny64, positive=plus, negative=plus)
    with pytest.raises(SiteError, match="expected one site"):
        DemonstrationDifference().fit(tiny64, **sides, at="layers.1.z")

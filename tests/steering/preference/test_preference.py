"""Preferences: exact masks, the loss and its gradient by plain hooks, planted truths, stopping."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid

from jackfield.core.errors import InputError, SiteError
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.edits import Add
from jackfield.steering.preference import (
    BiPO,
    InCode,
    PreferenceObjective,
    YaPO,
    preference_loss,
    preference_pairs,
)
from jackfield.testing.worlds import tiny_llama

AT = "layers.1.resid_post"
D = 32
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
CHOSEN = [[20, 21], [22], [23, 24, 25], [26, 27]]
REJECTED = [[30], [31, 32, 33], [34], [35, 36]]


def texts(count: int, seed: int, low: int = 1, high: int = 100) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 7), generator=draw)


SIDES = {"positive": texts(10, 1, high=50), "negative": texts(10, 2, low=50)}


def both_ways(dtype=torch.float64, **changes):
    """A dictionary without an error: latent i is max(x_i, 0), latent 32 + i is max(−x_i, 0)."""
    eye = torch.eye(D, dtype=dtype)
    ends, zero = torch.cat([eye, -eye]), torch.zeros(2 * D, dtype=dtype)
    weights = {
        "encoder": ends, "encoder_bias": zero, "centre": zero[:D], "decoder": ends,
        "decoder_bias": zero[:D], "threshold": zero, "density": zero,
    }  # fmt: skip
    return SparseDictionary(
        "made", {}, {**weights, **changes}, site=changes.pop("site", AT), history=[]
    )


def lossy(k=4, dtype=torch.float64):
    """A random dictionary of 20 latents that misses most of the activation."""
    draw = torch.Generator().manual_seed(3)
    decoder = torch.randn(20, D, generator=draw, dtype=dtype)
    weights = {
        "encoder": decoder, "encoder_bias": torch.randn(20, generator=draw, dtype=dtype) / 10,
        "centre": torch.randn(D, generator=draw, dtype=dtype) / 10, "decoder": decoder,
        "decoder_bias": torch.ones(D, dtype=dtype), "density": torch.zeros(20, dtype=dtype),
        "threshold": torch.full((20,), 0.2, dtype=dtype),
    }  # fmt: skip
    return SparseDictionary("made", {}, weights, site=AT, k=k, history=[])


def said(module, prompt, answer, hook=None):
    """log p of an answer, token by token, by the bare module and a plain hook on block 1."""
    held = module.model.layers[1].register_forward_hook(hook) if hook else None
    ids = torch.tensor([prompt + answer])
    log_p = log_softmax(module(input_ids=ids, use_cache=False).logits[0], dim=-1)
    if held is not None:
        held.remove()
    return sum(log_p[len(prompt) + i - 1, token] for i, token in enumerate(answer))


def by_hand(module, change, sign, beta):
    """The loss of the pairs above, each run alone, unpadded, from the embedding on."""

    def hook(block, given, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    losses = []
    for prompt, good, bad in zip(PROMPTS, CHOSEN, REJECTED, strict=True):
        moved = [
            said(module, prompt, y, hook) - said(module, prompt, y).detach() for y in (good, bad)
        ]
        losses.append(-logsigmoid(sign * beta * (moved[0] - moved[1])))
    return torch.stack(losses).mean()


# Pairs ----------------------------------------------------------------------------------------


def test_the_masks_are_exact(tiny):
    pairs = preference_pairs(tiny, CHOSEN, REJECTED, PROMPTS)
    for side, answers in enumerate((CHOSEN, REJECTED)):
        for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
            ids, mask = pairs.tokens[side, row], pairs.mask[side, row]
            assert ids[mask].tolist() == prompt + answer
            assert ids[pairs.answer[side, row]].tolist() == answer
            assert int(pairs.prompts[side, row]) == len(prompt)


def test_the_first_token_of_the_answer_is_counted(tiny64):
    pairs = preference_pairs(tiny64, CHOSEN, REJECTED, PROMPTS)
    found = PreferenceObjective(tiny64, pairs, AT).reference
    for side, answers in enumerate((CHOSEN, REJECTED)):
        for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
            with torch.no_grad():
                expected = said(tiny64.module, prompt, answer)
            assert float(found[side, row]) == pytest.approx(float(expected), abs=1e-9)


def test_without_prompts_all_but_the_first_token_is_the_answer(tiny):
    pairs = preference_pairs(tiny, **SIDES)
    assert pairs.answer[:, :, 1:].all()
    assert not pairs.answer[:, :, 0].any()
    assert not pairs.prompted


def test_prompt_and_answer_are_tokenised_apart():
    model = tiny_llama(texts=["the cat sat on a mat"])
    prompts = ["the cat", "a"]
    pairs = preference_pairs(model, [" sat on", " mat"], [" mat", " cat sat"], prompts)
    shown = [model.token_strings(pairs.tokens[0, i][pairs.answer[0, i]]) for i in (0, 1)]
    assert shown == [[" sat", " on"], [" mat"]]
    assert pairs.prompts.tolist() == [[2, 1], [2, 1]]


def test_of_a_chat_the_last_message_is_the_answer():
    model = tiny_llama(texts=["user : hi assistant yes no"])
    model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} assistant :{% endif %}"
    )
    chats = [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
        for answer in (" yes", " no")
    ]
    pairs = preference_pairs(model, chats[:1], chats[1:])
    for side, answer in enumerate((" yes", " no")):
        shown = model.token_strings(pairs.tokens[side, 0])
        assert "".join(shown) == f"user : hi assistant :{answer}"
        assert pairs.answer[side, 0].tolist() == [False] * 5 + [True]
    assert pairs.prompted
    apart = preference_pairs(model, [" yes"], [" no"], [chats[0][:1]])
    assert torch.equal(apart.tokens, pairs.tokens)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((CHOSEN, REJECTED[:3]), "as many answers to avoid as to prefer.*got 4 and 3"),
        ((CHOSEN, REJECTED, PROMPTS[:2]), "got 4 and 4 and 2"),
        (([], []), "at least one, got 0 and 0"),
        (([[5], *CHOSEN[1:]], REJECTED), "a token to answer with, got none in pair 0"),
        (([[], *CHOSEN[1:]], REJECTED, PROMPTS), "a token to answer with, got none in pair 0"),
    ],
)
def test_pairs_that_are_none_are_refused(tiny, given, message):
    with pytest.raises(InputError, match=message):
        preference_pairs(tiny, *given)


# The loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss_and_its_gradient_are_those_of_plain_hooks(tiny64, sign):
    draw = torch.Generator().manual_seed(4)
    start = 0.3 * torch.randn(D, generator=draw, dtype=torch.float64)
    pairs = preference_pairs(tiny64, CHOSEN, REJECTED, PROMPTS)
    objective = PreferenceObjective(tiny64, pairs, AT, "all")
    v, w = (start.clone().requires_grad_() for _ in range(2))
    edits = [Add(v, at=AT, strength=float(sign))]
    found = preference_loss(objective.margins(edits, torch.arange(4)), sign, 0.1)
    expected = by_hand(tiny64.module, lambda h: h + sign * w, sign, 0.1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    gradients = torch.autograd.grad(found, v)[0], torch.autograd.grad(expected, w)[0]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)
    assert float(gradients[0].norm()) > 1e-3


@pytest.mark.parametrize("k", [4, None])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss_in_code_and_its_gradient_are_those_of_plain_hooks(tiny64, sign, k):
    sae = lossy(k)
    draw = torch.Generator().manual_seed(4)
    start = 0.3 * torch.randn(20, generator=draw, dtype=torch.float64)
    pairs = preference_pairs(tiny64, CHOSEN, REJECTED, PROMPTS)
    objective = PreferenceObjective(tiny64, pairs, AT, "all")
    v, w = (start.clone().requires_grad_() for _ in range(2))
    names = ("encoder", "encoder_bias", "centre", "decoder", "threshold", "k")
    weights = {name: getattr(sae, name) for name in names}
    edits = [InCode(**weights, vector=v, strength=float(sign), at=AT)]

    def spliced(h):
        rows = h.flatten(0, 1)
        z = sae.encode(rows)
        return (rows + sae.decode(torch.relu(z + sign * w)) - sae.decode(z)).view(h.shape)

    found = preference_loss(objective.margins(edits, torch.arange(4)), sign, 0.1)
    expected = by_hand(tiny64.module, spliced, sign, 0.1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    gradients = torch.autograd.grad(found, v)[0], torch.autograd.grad(expected, w)[0]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)
    assert float(gradients[0].norm()) > 1e-3


def test_a_site_inside_a_block_gives_what_a_whole_run_gives(tiny64):
    at = "layers.1.mlp_out"
    pairs = preference_pairs(tiny64, CHOSEN, REJECTED, PROMPTS)
    edits = [Add(torch.ones(D, dtype=torch.float64), at=at, where=slice(1, None))]
    moved = PreferenceObjective(tiny64, pairs, at).margins(edits, torch.arange(4))
    expected = []
    for row, prompt in enumerate(PROMPTS):
        gains = []
        for answer in (CHOSEN[row], REJECTED[row]):
            ids = torch.tensor([prompt + answer])
            both = [tiny64.run(ids, edits=each).logits[0].log_softmax(-1) for each in (edits, ())]
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            gains.append(
                sum(both[0][i, y] - both[1][i, y] for i, y in zip(places, answer, strict=True))
            )
        expected.append(gains[0] - gains[1])
    torch.testing.assert_close(moved, torch.stack(expected))


def test_what_lies_below_the_site_runs_once_and_gets_no_gradient(tiny):
    calls = []
    hook = tiny.module.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    BiPO(epochs=3).fit(tiny, **SIDES, at=AT)
    hook.remove()
    # 20 texts, 16 at a time; and once for the profile of sinks
    assert len(calls) == 3
    assert all(each.grad is None for each in tiny.module.parameters())


# The descent ----------------------------------------------------------------------------------


def preferring(model):
    """Silent blocks; the head writes ids below 50 along a direction r and the others against it."""
    draw = torch.Generator().manual_seed(8)
    r = torch.randn(D, generator=draw, dtype=torch.float64)
    r = r / r.norm()
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        head = model.module.lm_head.weight
        head -= (head @ r)[:, None] * r
        head[:50] += r
        head[50:] -= r
    return r


def test_a_planted_direction_is_found(tiny64):
    r = preferring(tiny64)
    found = BiPO(epochs=15, rate=0.05, decay=0.0).fit(tiny64, **SIDES, at=AT)
    assert float(torch.cosine_similarity(found.vector.double(), r, dim=0)) > 0.8
    assert found.course.agree == (1.0, 1.0)
    assert found.course.held[found.course.kept] < 0.9 * found.course.held[0]


def test_without_a_preference_no_direction_is_found(tiny64):
    """The same model, and sides that are drawn alike: the planted direction does not come out."""
    r = preferring(tiny64)
    sides = {"positive": texts(10, 1), "negative": texts(10, 2)}
    found = BiPO(epochs=15, rate=0.05).fit(tiny64, **sides, at=AT)
    assert abs(float(torch.cosine_similarity(found.vector.double(), r, dim=0))) < 0.6


def test_a_planted_latent_is_found_and_silent_ones_stay_at_0(tiny64):
    """r is the second latent of four; the fourth never fires, as its threshold is out of reach."""
    r = preferring(tiny64)
    draw = torch.Generator().manual_seed(9)
    decoder = torch.randn(4, D, generator=draw, dtype=torch.float64)
    decoder = decoder - (decoder @ r)[:, None] * r
    decoder[1] = r
    decoder = decoder / decoder.norm(dim=1, keepdim=True)
    zero = torch.zeros(D, dtype=torch.float64)
    weights = {
        "encoder": decoder, "encoder_bias": zero[:4] + 1.0, "centre": zero, "decoder": decoder,
        "decoder_bias": zero, "threshold": torch.tensor([0.0, 0.0, 0.0, 1e3]).double(),
        "density": zero[:4],
    }  # fmt: skip
    sae = SparseDictionary("made", {}, weights, site=AT, history=[])
    found = YaPO(epochs=10, rate=0.1).fit(tiny64, **SIDES, dictionary=sae)
    assert int(found.vector.abs().argmax()) == 1
    assert float(found.vector[1]) > 0
    assert float(found.vector[3]) == 0
    assert found.fires[3] == 0


def moved(model, found, ids, prompt: int) -> list[int]:
    """On which tokens of a text an edit acts, of which `prompt` are the prompt's."""
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    x, y = (
        model.run(call, sites=[AT], edits=edits, prompt_lengths=torch.tensor([prompt]))[AT][0]
        for edits in ((), found.edits())
    )
    return (x != y).any(dim=-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("method", [BiPO, YaPO])
def test_it_acts_on_no_other_tokens_than_it_was_learned_on(tiny, method):
    given = {"at": AT} if method is BiPO else {"dictionary": both_ways(torch.float32)}
    pairs = {"prompts": PROMPTS, "positive": CHOSEN, "negative": REJECTED}
    for where, expected in (("last", [4]), ((2, -2), [2, 3]), ("generated", [4, 5, 6])):
        found = method(epochs=1, held_out=0.25, where=where).fit(tiny, **pairs, **given)
        assert moved(tiny, found, texts(1, 5), prompt=5) == expected


@pytest.mark.parametrize("where", ["last", "generated", -1, "~sinks & prompt"])
@pytest.mark.parametrize("method", [BiPO, YaPO])
def test_a_rule_that_asks_for_a_prompt_is_refused_without_one(tiny, method, where):
    given = {"at": AT} if method is BiPO else {"dictionary": both_ways(torch.float32)}
    with pytest.raises(InputError, match=r"prompts, as the rule asks where.*got texts alone"):
        method(epochs=1, where=where).fit(tiny, **SIDES, **given)
    method(epochs=1, where=(1, 2)).fit(tiny, **SIDES, **given)


def test_the_report_says_that_held_out_pairs_chose_the_epoch(tiny):
    found = BiPO(epochs=1).fit(tiny, **SIDES, at=AT)
    assert "2 pairs held out, which also chose the epoch" in found.report().summary
    assert [row[0] for row in found.course.rows()][-3:] == [
        "held-out loss, kept (it chose the epoch)",
        "decided at +1, of the pairs that chose the epoch",
        "decided at −1, of the pairs that chose the epoch",
    ]
    none = BiPO(epochs=1, held_out=0.0).fit(tiny, **SIDES, at=AT)
    assert "chose" not in none.report().summary


@pytest.mark.parametrize("method", [BiPO(epochs=3), YaPO(epochs=3)])
def test_strength_0_changes_no_bit_and_signs_differ(tiny, method):
    given = {"at": AT} if isinstance(method, BiPO) else {"dictionary": both_ways(torch.float32)}
    found = method.fit(tiny, **SIDES, **given)
    plain = tiny.run(SIDES["negative"]).logits
    zero, plus, minus = (
        tiny.run(SIDES["negative"], edits=found.edits(m, where="all")).logits for m in (0.0, 1, -1)
    )
    assert torch.equal(zero, plain)
    assert not torch.equal(plus, plain)
    assert not torch.equal(plus, minus)
    assert found.dose(tiny, "kl:0.05", SIDES["negative"]).cost.mean == pytest.approx(0.05, rel=0.1)


def test_the_seed_decides_all(tiny):
    a, b, c = (BiPO(epochs=2, seed=seed).fit(tiny, **SIDES, at=AT) for seed in (0, 0, 1))
    assert torch.equal(a.vector, b.vector)
    assert a.course == b.course
    assert not torch.equal(a.vector, c.vector)


def test_it_stops_when_the_held_out_loss_does_not_fall_and_keeps_the_best(tiny):
    """Steps as long as the activation overshoot at once."""
    found = BiPO(epochs=30, rate=5.0, patience=2).fit(tiny, **SIDES, at=AT).course
    assert len(found.losses) == found.kept + 2 < 30
    assert found.held[found.kept] == min(found.held[1:])
    assert found.held[0] == pytest.approx(math.log(2))
    assert found.pairs == (8, 2)


def test_with_none_held_out_the_last_epoch_is_kept(tiny):
    found = BiPO(epochs=4, held_out=0.0).fit(tiny, **SIDES, at=AT).course
    assert (found.held, found.kept, found.pairs) == ((), 4, (10, 0))


def test_a_norm_is_the_length_of_the_activation(tiny64):
    found = BiPO(epochs=2, where="all").fit(tiny64, **SIDES, at=AT)
    x = torch.cat([tiny64.run(side, sites=[AT])[AT] for side in SIDES.values()])
    (edit,) = found.edits("norm:1", where="all")
    assert float((edit.strength * edit.vector).norm()) == pytest.approx(
        float(x.norm(dim=-1).mean()), rel=1e-5
    )
    unit = found.vector.double() / found.vector.double().norm()
    along = (x.mean(dim=1) @ unit).view(2, 10)
    spread = float(along.var(dim=1).mean().sqrt())
    assert found.sigma == pytest.approx(spread, rel=1e-5)


# Bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_learned_from_is_refused(tiny):
    low = SIDES["positive"]
    with pytest.raises(InputError, match="sides that differ, got equal answers"):
        BiPO().fit(tiny, positive=low, negative=low, at=AT)
    with pytest.raises(InputError, match="2 pairs, of which 0 would be held out"):
        BiPO().fit(tiny, positive=low[:2], negative=SIDES["negative"][:2], at=AT)
    with pytest.raises(InputError, match="a token to steer in each text"):
        BiPO(where=60).fit(tiny, **SIDES, at=AT)


def test_wrong_sites_are_refused(tiny):
    with pytest.raises(SiteError, match=r"one site.*got 3 sites"):
        BiPO().fit(tiny, **SIDES, at="layers.*.resid_post")
    with pytest.raises(SiteError, match=r"got \[batch position head d_head\]"):
        BiPO().fit(tiny, **SIDES, at="layers.1.z")


def test_other_dictionaries_are_refused(tiny):
    class Plain:
        site, sources = AT, (AT,)

    with pytest.raises(InputError, match="a sparse autoencoder of one site, got Plain without enc"):
        YaPO().fit(tiny, **SIDES, dictionary=Plain())
    silent = both_ways(torch.float32, threshold=torch.full((2 * D,), 1e6))
    with pytest.raises(InputError, match="a dictionary that fires on the pairs"):
        YaPO().fit(tiny, **SIDES, dictionary=silent)
    with pytest.raises(InputError, match="with 32 columns"):
        YaPO().fit(tiny_llama(d_model=64), **SIDES, dictionary=both_ways(torch.float32))

"""Generation against transformers' own, against no cache, and against plain loops of hooks."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import EditError, InputError, ModelError, SiteError
from jackfield.core.where import Role, Rows, Tokens

PROMPTS = ["w7 w8 w9 w10 w11 w12", "w13 w14", "w15 w16 w17 w18"]  # of unequal length


@pytest.fixture
def endless(talker: jf.Model) -> jf.Model:
    """The talker, for whom nothing ends a text."""
    talker.module.generation_config.eos_token_id = None
    talker.module.config.eos_token_id = None
    return talker


def transformers_greedy(model: jf.Model, texts: list[str], count: int, **options) -> Tensor:
    """The new tokens by `module.generate`, from prompts padded on the left."""
    given = model.inputs(texts, padding="left")
    made = model.module.generate(
        input_ids=given.tokens,
        attention_mask=given.mask.long(),
        max_new_tokens=count,
        do_sample=False,
        **options,
    )
    return made[:, given.tokens.shape[1] :]


class TestGreedy:
    @pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
    def test_it_is_that_of_transformers(self, cache, talker):
        made = talker.generate(PROMPTS, max_new_tokens=12, cache=cache)
        assert torch.equal(made.tokens, transformers_greedy(talker, PROMPTS, 12))

    def test_rows_end_at_their_end_of_sequence_and_are_padded(self, talker):
        free = talker.generate(PROMPTS, max_new_tokens=12).tokens
        end = int(free[0, 3])
        assert (free != end)[1:].any()
        talker.module.generation_config.eos_token_id = [end, 100]
        made = talker.generate(PROMPTS, max_new_tokens=12, logits=True)
        assert torch.equal(made.tokens, transformers_greedy(talker, PROMPTS, 12))
        assert made.tokens[0, : int((free[0] == end).nonzero()[0]) + 1][-1] == end
        after = made.tokens[0, int((free[0] == end).nonzero()[0]) + 1 :]
        assert (after == 0).all()
        assert f"w{end}" not in made.texts[0]

    def test_it_stops_when_all_rows_have_ended(self, talker):
        first = talker.generate(PROMPTS, max_new_tokens=1).tokens[:, 0]
        talker.module.generation_config.eos_token_id = first.tolist()
        made = talker.generate(PROMPTS, max_new_tokens=12)
        assert made.tokens.shape == (3, 1)
        assert made.texts == ["", "", ""]

    def test_without_a_tokenizer_rows_are_padded_as_the_config_says(self, tiny, tokens):
        end = int(tiny.generate(tokens, max_new_tokens=1).tokens[0, 0])
        tiny.module.generation_config.eos_token_id = end
        made = tiny.generate(tokens, max_new_tokens=8).tokens
        expected = tiny.module.generate(tokens, max_new_tokens=8, do_sample=False)[:, 7:]
        assert torch.equal(made, expected)

    def test_a_row_is_the_same_alone_and_in_a_batch(self, talker):
        together = talker.generate(PROMPTS, max_new_tokens=8)
        for row, prompt in enumerate(PROMPTS):
            alone = talker.generate(prompt, max_new_tokens=8)
            assert torch.equal(alone.tokens[0], together.tokens[row])
            assert alone.texts[0] == together.texts[row]

    def test_the_logits_are_those_of_one_forward_over_it_all(self, talker):
        made = talker.generate(PROMPTS, max_new_tokens=6, logits=True)
        for row, prompt in enumerate(PROMPTS):
            ids = torch.tensor([[*talker.tokenizer(prompt)["input_ids"], *made.tokens[row]]])
            whole = talker.run(ids).logits[0, -7:-1]
            assert torch.allclose(made.logits[row], whole, atol=1e-5)
        assert talker.generate(PROMPTS, max_new_tokens=2).logits is None

    def test_what_is_shown_is_prompt_and_text(self, talker):
        made = talker.generate(["w7 w8"], max_new_tokens=2)
        assert made.prompts == ["w7 w8"]
        assert made.texts[0] == " ".join(f"w{i}" for i in made.tokens[0])
        assert repr(made) == f"w7 w8⟶{made.texts[0]}"


V, H = torch.randn(32), torch.randn(8)


def vector(width: int, seed: int) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def edits_at(role: str, rule) -> list[E.Edit]:
    """Edits of one kind of site, strong enough to change what is generated."""
    place = {"at": f"layers.1.{role}", "where": rule}
    if role in ("q", "k", "v", "z"):
        return [E.Add(2 * vector(8, 1), **place), E.Scale(1.5, **place)]
    if role == "scores":
        return [E.Scale(0.3, **place)]
    if role == "pattern":
        return [E.KeepTopK(1, **place)]
    return [
        E.Add(2 * vector({"mlp_post": 48}.get(role, 32), 2), **place),
        E.Clamp(-3.0, 3.0, **place),
    ]


ROLES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "mlp_post",
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "z",
)
RULES = {
    "all": "all",
    "prompt": "prompt",
    "generated": "generated",
    "last": "last",
    "not last": "~last",
    "positions": [1, 6, -1],
    "span": slice(3, 8),
    "tokens": Tokens((8, 14, 17, 40, 41, 42, 43, 44, 45)),
    "rows": Rows((0, 2)),
    "joined": "prompt | last",
}


class TestCaches:
    """The same edits give the same with any cache and with none."""

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    @pytest.mark.parametrize("role", ROLES)
    def test_equal_for_a_batch_padded_on_the_left(self, role, rule, talker):
        edits = edits_at(role, rule)
        none, dynamic, static = (
            talker.generate(PROMPTS, edits=edits, max_new_tokens=6, cache=cache, logits=True)
            for cache in ("none", "dynamic", "static")
        )
        clean = talker.generate(PROMPTS, max_new_tokens=6, logits=True)
        assert not torch.allclose(none.logits, clean.logits, atol=1e-3)
        for made in (dynamic, static):
            assert torch.equal(made.tokens, none.tokens)
            assert torch.allclose(made.logits, none.logits, atol=1e-4)

    @pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
    def test_a_cache_saves_work_and_only_the_last_place_is_unembedded(self, cache, talker):
        read, unembedded = [], []
        block, head = talker.module.model.layers[0], talker.module.lm_head
        block.register_forward_pre_hook(lambda m, args: read.append(args[0].shape[1]))
        head.register_forward_pre_hook(lambda m, args: unembedded.append(args[0].shape[1]))
        talker.generate("w7 w8 w9", max_new_tokens=4, cache=cache)
        assert read == ([3, 4, 5, 6] if cache == "none" else [3, 1, 1, 1])
        assert unembedded == [1, 1, 1, 1]

    def test_edits_that_read_another_site(self, talker):
        edit = E.Function(
            lambda x, context: x + context.read("layers.0.mlp_out"),
            at="layers.1.resid_mid",
            reads=["layers.0.mlp_out"],
            where="generated",
        )
        none, cached = (
            talker.generate(PROMPTS, edits=[edit], max_new_tokens=6, cache=cache, logits=True)
            for cache in ("none", "dynamic")
        )
        assert torch.allclose(cached.logits, none.logits, atol=1e-4)
        clean = talker.generate(PROMPTS, max_new_tokens=6, logits=True)
        assert not torch.allclose(none.logits, clean.logits, atol=1e-3)


def plain_loop(module: nn.Module, ids: list[int], count: int, site: str, choose, change) -> Tensor:
    """Greedy tokens of one row without cache or padding, `change` applied by a plain hook.

    `choose(position, length, token)` says which tokens.
    """
    length, row = len(ids), list(ids)
    for _ in range(count):
        chosen = [choose(position, length, token) for position, token in enumerate(row)]
        at = torch.tensor(chosen)

        def on_values(x, at=at):
            return torch.where(at.reshape(1, -1, *[1] * (x.dim() - 2)), change(x), x)

        with torch.no_grad():
            logits = _with_hook(module, site, on_values, torch.tensor([row]))
        row.append(int(logits[0, -1].argmax()))
    return torch.tensor(row[length:])


def _with_hook(module, site, change, ids):
    block = module.model.layers[1]
    if site == "resid_post":
        handle = block.register_forward_hook(lambda m, a, out: change(out))
        try:
            return module(ids).logits
        finally:
            handle.remove()
    kept = modeling_llama.eager_attention_forward

    def attend(part, query, key, value, mask, **options):
        if part.layer_idx == 1:
            changed = change({"k": key, "v": value}[site].transpose(1, 2)).transpose(1, 2)
            key, value = (changed, value) if site == "k" else (key, changed)
        return kept(part, query, key, value, mask, **options)

    modeling_llama.eager_attention_forward = attend
    try:
        return module(ids).logits
    finally:
        modeling_llama.eager_attention_forward = kept


PLAIN_RULES = {
    "prompt": ("prompt", lambda p, n, t: p < n - 1),
    "generated": ("generated", lambda p, n, t: p >= n - 1),
    "last": ("last", lambda p, n, t: p == n - 1),
    "positions": ([1, 6, -2], lambda p, n, t: p in (1, 6, n - 2)),
    "tokens": (Tokens(tuple(range(7, 50, 3))), lambda p, n, t: t in range(7, 50, 3)),
}


@pytest.mark.parametrize("site", ["resid_post", "k", "v"])
@pytest.mark.parametrize("rule", PLAIN_RULES)
def test_a_batch_is_what_a_plain_loop_over_single_rows_gives(rule, site, endless):
    endless.module.set_attn_implementation("eager")
    where, choose = PLAIN_RULES[rule]
    v = 3 * vector(32 if site == "resid_post" else 8, 3)
    edit = E.Add(v, at=f"layers.1.{site}", where=where)
    made = endless.generate(PROMPTS, edits=[edit], max_new_tokens=7).tokens
    for row, prompt in enumerate(PROMPTS):
        ids = endless.tokenizer(prompt)["input_ids"]
        expected = plain_loop(endless.module, ids, 7, site, choose, lambda x: x + v)
        assert torch.equal(made[row], expected)


def sliding(kind: str) -> jf.Model:
    """A tiny model whose attention reaches back four tokens, in all layers or some."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "sliding_window": 4,
        "pad_token_id": 0,
        "eos_token_id": 100,
    }
    if kind == "mistral":
        return jf.wrap(transformers.MistralForCausalLM(transformers.MistralConfig(**sizes)).eval())
    mixed = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma3TextConfig(
        **sizes, head_dim=8, query_pre_attn_scalar=8, layer_types=mixed
    )
    return jf.wrap(transformers.Gemma3ForCausalLM(config).eval())


@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
class TestSlidingWindows:
    @pytest.mark.parametrize("length", [2, 4, 9])
    def test_greedy_is_that_of_transformers(self, kind, length):
        model = sliding(kind)
        prompt = torch.randint(1, 100, (2, length))
        expected = model.module.generate(prompt, max_new_tokens=8, do_sample=False)[:, length:]
        for cache in ("dynamic", "static", "none"):
            assert torch.equal(
                model.generate(prompt, max_new_tokens=8, cache=cache).tokens, expected
            )

    @pytest.mark.parametrize("role", ["k", "v", "resid_post", "pattern"])
    @pytest.mark.parametrize("rule", [[1, 6, 10], "generated", "prompt"], ids=str)
    def test_edits_are_those_without_a_cache(self, kind, role, rule):
        model = sliding(kind)
        prompt = torch.randint(1, 100, (2, 9))
        edits = edits_at(role, rule)
        none, dynamic, static = (
            model.generate(prompt, edits=edits, max_new_tokens=7, cache=cache, logits=True)
            for cache in ("none", "dynamic", "static")
        )
        clean = model.generate(prompt, max_new_tokens=7, logits=True)
        assert not torch.allclose(none.logits, clean.logits, atol=1e-3)
        assert torch.allclose(dynamic.logits, none.logits, atol=1e-4)
        assert torch.allclose(static.logits, none.logits, atol=1e-4)


class TestSampling:
    def test_the_seed_decides(self, talker):
        options = {"max_new_tokens": 12, "temperature": 1.5}
        one, same, other = (talker.generate(PROMPTS, seed=s, **options).tokens for s in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_callers_own_chance_is_left_alone(self, talker):
        torch.manual_seed(3)
        expected = torch.rand(3)
        torch.manual_seed(3)
        edit = E.Noise(1.0, at="layers.0.resid_post")
        talker.generate(PROMPTS, temperature=1.0, max_new_tokens=3, edits=[edit])
        assert torch.equal(torch.rand(3), expected)

    def test_one_of_the_likeliest_is_the_likeliest(self, talker):
        greedy = talker.generate(PROMPTS, max_new_tokens=8).tokens
        for options in ({"top_k": 1}, {"top_p": 1e-6}):
            made = talker.generate(PROMPTS, max_new_tokens=8, temperature=1.0, **options).tokens
            assert torch.equal(made, greedy)

    def test_top_k_and_top_p_bound_the_choice(self, endless):
        made = endless.generate(
            PROMPTS, max_new_tokens=20, temperature=3.0, top_k=3, seed=1, logits=True
        )
        rank = (made.logits > made.logits.gather(-1, made.tokens[..., None])).sum(-1)
        assert set(rank.flatten().tolist()) == {0, 1, 2}
        made = endless.generate(
            PROMPTS, max_new_tokens=20, temperature=1.0, top_p=0.5, seed=1, logits=True
        )
        shares = made.logits.softmax(-1)
        chosen = shares.gather(-1, made.tokens[..., None])
        likelier = shares.masked_fill(shares <= chosen, 0).sum(-1)
        assert (likelier < 0.5).all()

    def test_temperature_flattens_the_shares(self, talker):
        prompt = "w7 w8 w9"
        shares = talker.run(prompt).logits[0, -1].div(2.0).softmax(-1)
        drawn = talker.generate([prompt] * 4000, temperature=2.0, max_new_tokens=1).tokens[:, 0]
        found = torch.bincount(drawn, minlength=101) / 4000
        assert (found - shares).abs().max() < 0.03

    def test_settings_without_effect_warn(self, talker):
        with pytest.warns(UserWarning, match="no effect at temperature 0"):
            talker.generate("w7", top_k=3, max_new_tokens=1)


class TestStreaming:
    def test_the_steps_are_the_generation(self, talker):
        options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
        edits = [E.Add(vector(32, 2), at="layers.1.resid_post")]
        whole = talker.generate(PROMPTS, edits=edits, logits=True, **options)
        steps = list(talker.generate_stream(PROMPTS, edits=edits, **options))
        assert torch.equal(torch.stack([step.tokens for step in steps], 1), whole.tokens)
        assert torch.equal(torch.stack([step.logits for step in steps], 1), whole.logits)
        assert [
            "".join(texts) for texts in zip(*(s.texts for s in steps), strict=True)
        ] == whole.texts

    def test_characters_of_several_tokens_come_whole(self, talker):
        class Bytes:
            pad_token_id = 0

            def decode(self, ids):
                return bytes(int(each) for each in ids).decode(errors="replace")

        text = "é→x".encode()
        scripted = iter(text)

        def say(x, context):
            new = torch.full_like(x, -9.0)
            new[..., next(scripted)] = 9.0
            return new

        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=256, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, eos_token_id=None,
        )  # fmt: skip
        model = jf.wrap(LlamaForCausalLM(config).eval(), Bytes())
        steps = model.generate_stream(
            torch.tensor([[65]]), edits=[E.Function(say, at="logits")], max_new_tokens=len(text)
        )
        assert [step.texts[0] for step in steps] == ["", "é", "", "", "→", "x"]

    def test_the_model_is_unedited_between_the_steps(self, talker, tokens, traces):
        before, clean = traces(talker.module), talker.run(tokens).logits
        edits = [E.ZeroOut(at="layers.1.pattern"), E.Scale(3.0, at="layers.1.resid_mid")]
        for _ in talker.generate_stream(PROMPTS, edits=edits, max_new_tokens=3):
            assert traces(talker.module) == before
            with torch.no_grad():
                assert torch.equal(talker.module(tokens).logits, clean)

    def test_two_can_be_made_at_once(self, talker):
        edits = [E.Scale(3.0, at="layers.1.mlp_out", where="generated")]
        left = talker.generate_stream(PROMPTS, edits=edits, max_new_tokens=5)
        right = talker.generate_stream(PROMPTS, max_new_tokens=5)
        pairs = [(a.tokens, b.tokens) for a, b in zip(left, right, strict=True)]
        edited = talker.generate(PROMPTS, edits=edits, max_new_tokens=5).tokens
        clean = talker.generate(PROMPTS, max_new_tokens=5).tokens
        assert torch.equal(torch.stack([a for a, _ in pairs], 1), edited)
        assert torch.equal(torch.stack([b for _, b in pairs], 1), clean)

    def test_one_that_is_abandoned_leaves_nothing(self, talker, traces):
        before = traces(talker.module)
        steps = talker.generate_stream(PROMPTS, edits=[E.ZeroOut(at="layers.1.z")])
        next(steps)
        steps.close()
        assert traces(talker.module) == before
        with talker.editing([]):
            pass  # not held by anyone


class TestEdits:
    def test_those_with_memory_begin_anew_with_each_sequence(self, talker):
        edit = E.Noise(2.0, at="layers.1.resid_post")
        once = talker.generate(PROMPTS, edits=[edit], max_new_tokens=6, logits=True)
        again = talker.generate(PROMPTS, edits=[edit], max_new_tokens=6, logits=True)
        assert torch.equal(once.logits, again.logits)
        other = dataclasses.replace(edit, seed=1)
        made = talker.generate(PROMPTS, edits=[other], max_new_tokens=6, logits=True)
        assert not torch.allclose(once.logits, made.logits)

    def test_memory_goes_on_within_a_sequence(self, talker):
        seen = []

        class Counting(E.Edit):
            stateful = True

            def apply(self, x, context):
                context.state["count"] = context.state.get("count", 0) + x.shape[1]
                seen.append(context.state["count"])
                return x

        talker.generate(["w7 w8 w9"], edits=[Counting(at="layers.1.resid_post")], max_new_tokens=3)
        assert seen == [3, 4, 5]

    def test_at_the_logits(self, talker):
        banned = talker.generate(PROMPTS, max_new_tokens=6).tokens.unique()
        penalty = torch.zeros(101)
        penalty[banned] = -1e4
        for rule in ("all", "generated"):
            edit = E.Add(penalty, at="logits", where=rule)
            for cache in ("dynamic", "none"):
                made = talker.generate(PROMPTS, edits=[edit], max_new_tokens=6, cache=cache)
                assert not torch.isin(made.tokens, banned).any()
        edit = E.Add(penalty, at="logits", where="prompt")
        made = talker.generate(PROMPTS, edits=[edit], max_new_tokens=6)
        assert torch.equal(made.tokens, talker.generate(PROMPTS, max_new_tokens=6).tokens)

    def test_patching_the_prompt_with_another_run(self, talker):
        source = talker.run("w21 w22 w23 w24", sites="layers.1.resid_post")["layers.1.resid_post"]
        edit = E.Replace(source, at="layers.1.resid_post", where=slice(0, 4))
        made = talker.generate("w15 w16 w17 w18", edits=[edit], max_new_tokens=1, logits=True)
        expected = talker.generate("w21 w22 w23 w24", max_new_tokens=1, logits=True)
        assert torch.allclose(made.logits, expected.logits, atol=1e-5)
        later = talker.generate("w15 w16 w17 w18", edits=[edit], max_new_tokens=3)
        assert torch.equal(later.tokens[:, :1], expected.tokens)

    def test_a_part_of_an_axis_of_positions_is_refused_after_the_prompt(self, talker):
        edit = E.ZeroOut(at="layers.1.resid_post[position=0]")
        with pytest.raises(EditError, match=r"Say where=\.\.\. instead"):
            talker.generate("w7 w8", edits=[edit], max_new_tokens=3)

    def test_a_mask_of_one_input_is_refused_after_the_prompt(self, talker):
        edit = E.ZeroOut(at="layers.1.resid_post", where=torch.ones(1, 2, dtype=torch.bool))
        with pytest.raises(EditError, match="use a phase or positions when generating"):
            talker.generate("w7 w8", edits=[edit], max_new_tokens=3)

    def test_one_that_no_forward_passes_is_an_error(self, talker):
        talker.module.extra = nn.Linear(2, 2)
        with pytest.raises(SiteError, match="The edit had no effect there"):
            talker.generate("w7", edits=[E.ZeroOut(at="extra:out")], max_new_tokens=2)


CHAT = [{"role": "system", "content": "w9 w8"}, {"role": "user", "content": "w7 w10 w11"}]


class TestChats:
    def test_a_chat_ends_where_the_answer_begins(self, talker):
        made = talker.generate(CHAT, max_new_tokens=4)
        text = "<system> w9 w8 <end> <user> w7 w10 w11 <end> <assistant>"
        assert made.prompts == [text]
        assert torch.equal(made.tokens, talker.generate(text, max_new_tokens=4).tokens)

    def test_several_chats_are_padded_like_texts(self, talker):
        short = [{"role": "user", "content": "w12"}]
        both = talker.generate([CHAT, short], max_new_tokens=4)
        assert torch.equal(both.tokens[1], talker.generate([short], max_new_tokens=4).tokens[0])

    @pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
    @pytest.mark.parametrize("site", ["resid_post", "v"])
    def test_edits_follow_the_roles_also_into_the_answer(self, site, cache, talker):
        # <system> w9 w8 <end> | <user> w7 w10 w11 <end> | <assistant> ...
        spans = {"system": slice(0, 4), "user": slice(4, 9), "assistant": slice(9, None)}
        v = 3 * vector(32 if site == "resid_post" else 8, 5)
        for role, span in spans.items():
            got, expected = (
                talker.generate(
                    CHAT,
                    edits=[E.Add(v, at=f"layers.1.{site}", where=where)],
                    max_new_tokens=5,
                    cache=cache,
                    logits=True,
                )
                for where in (Role(role), span)
            )
            assert torch.allclose(got.logits, expected.logits, atol=1e-5)


class TestUnderEditing:
    """`module.generate` of transformers inside `model.editing`."""

    @pytest.mark.parametrize("role", ["resid_post", "resid_mid", "k", "v", "pattern"])
    @pytest.mark.parametrize("rule", ["all", "prompt", "generated", [1, 6]], ids=str)
    def test_it_is_the_generation_with_these_edits(self, role, rule, talker):
        edits = edits_at(role, rule)
        expected = talker.generate(PROMPTS, edits=edits, max_new_tokens=6).tokens
        with talker.editing(edits):
            assert torch.equal(transformers_greedy(talker, PROMPTS, 6), expected)

    def test_in_a_static_cache_its_masks_do_not_tell_tokens_apart(self, talker):
        # transformers makes masks of four axes here, in which padding cannot be told from the rest
        static = {"cache_implementation": "static"}
        edits = edits_at("resid_post", "all")
        expected = talker.generate(PROMPTS, edits=edits, max_new_tokens=6).tokens
        with talker.editing(edits):
            assert torch.equal(transformers_greedy(talker, PROMPTS, 6, **static), expected)
        for role in ("resid_post", "v", "pattern"):
            with talker.editing(edits_at(role, "prompt")):
                with pytest.raises(EditError, match="does not tell which tokens it has"):
                    transformers_greedy(talker, PROMPTS, 6, **static)
                talker.module(torch.tensor([[5, 6]]))

    def test_at_the_logits(self, talker):
        edits = [E.Scale(-1.0, at="logits", where="generated")]
        expected = talker.generate(PROMPTS, edits=edits, max_new_tokens=5).tokens
        with talker.editing(edits):
            assert torch.equal(transformers_greedy(talker, PROMPTS, 5), expected)

    def test_a_beam_search_is_that_of_a_model_with_such_weights(self, talker):
        with talker.editing([E.Scale(3.0, at="layers.1.mlp_out")]):
            made = transformers_greedy(talker, PROMPTS, 6, num_beams=3)
        clean = transformers_greedy(talker, PROMPTS, 6, num_beams=3)
        talker.module.model.layers[1].mlp.down_proj.weight.data.mul_(3.0)
        assert torch.equal(made, transformers_greedy(talker, PROMPTS, 6, num_beams=3))
        assert not torch.equal(made, clean)

    def test_memory_begins_anew_with_each_sequence(self, talker):
        edits = [E.Noise(2.0, at="layers.1.resid_post")]
        expected = talker.generate(PROMPTS, edits=edits, max_new_tokens=5).tokens
        with talker.editing(edits):
            for _ in range(2):
                assert torch.equal(transformers_greedy(talker, PROMPTS, 5), expected)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens >= 1, got 0"),
            ({"temperature": -1.0}, "temperature >= 0, got -1.0"),
            ({"temperature": float("nan")}, "temperature >= 0, got nan"),
            ({"temperature": 1.0, "top_k": 0}, "top_k >= 1, got 0"),
            ({"temperature": 1.0, "top_p": 0.0}, "0 < top_p <= 1, got 0.0"),
            ({"temperature": 1.0, "top_p": 1.5}, "0 < top_p <= 1, got 1.5"),
            ({"max_new_tokens": 64}, "at most 64 tokens .the model's context., got 65"),
        ],
        ids=str,
    )
    def test_settings_outside_their_range(self, options, message, talker):
        with pytest.raises(InputError, match=message):
            talker.generate("w7 w8", **options)

    def test_up_to_the_context(self, endless):
        assert endless.generate("w7 w8", max_new_tokens=63).tokens.shape == (1, 63)

    def test_no_prompts(self, talker):
        with pytest.raises(InputError, match="at least one text, got an empty list"):
            talker.generate([])
        with pytest.raises(InputError, match="texts with at least a token"):
            talker.generate(["w7", ""])

    def test_a_model_that_does_not_generate(self):
        with pytest.raises(ModelError, match="a language model with a head, got Linear"):
            jf.wrap(nn.Linear(2, 2)).generate("w7")

    def test_an_unknown_site(self, talker):
        with pytest.raises(SiteError, match=r"Did you mean layers\.1\.resid_post"):
            talker.generate("w7", edits=[E.ZeroOut(at="layers.1.resid_pots")])


@pytest.mark.slow
def test_the_default_model_says_what_transformers_says(smollm2):
    texts = ["The capital of France is", "Once upon a time, in a small village by the sea,"]
    expected = transformers_greedy(smollm2, texts, 20)
    steps = list(smollm2.generate_stream(texts, max_new_tokens=20))
    tokens = torch.stack([step.tokens for step in steps], dim=1)
    assert torch.equal(tokens, expected[:, : tokens.shape[1]])
    said = ["".join(each) for each in zip(*(step.texts for step in steps), strict=True)]
    assert said[0].startswith(" Paris")
    assert said == smollm2.tokenizer.batch_decode(tokens)

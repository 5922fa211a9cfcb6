"""Reads and stops while generating, against one plain run over the whole text."""

import pytest
import torch

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import InputError, SiteError

PROMPTS = ["w7 w8 w9 w10 w11 w12", "w13 w14", "w15 w16 w17 w18"]  # of unequal length
SITES = ["layers.0.resid_mid", "layers.1.resid_post", "layers.1.v", "layers.0.mlp_post"]
COUNT = 6


@pytest.fixture
def endless(talker: jf.Model) -> jf.Model:
    """The talker, for whom nothing ends a text."""
    talker.module.generation_config.eos_token_id = None
    talker.module.config.eos_token_id = None
    return talker


def whole_run(model, prompt, tokens, **options):
    """One run over a prompt and all but the last of its new tokens, which is never read."""
    ids = model.tokenizer(prompt)["input_ids"]
    text = torch.tensor([[*ids, *tokens[:-1].tolist()]])
    return model.run(text, prompt_lengths=[len(ids)], **options)


def joined(steps, site, row):
    """What all steps read of one row, padding left out."""
    return torch.cat([step.activations[site][row][step.mask[row]] for step in steps])


class TestReads:
    @pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
    @pytest.mark.parametrize("edited", [False, True], ids=["plain", "edited"])
    def test_they_are_those_of_a_plain_run_on_the_whole_text(self, cache, edited, endless):
        vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
        edits = [E.Add(vector, at="layers.0.resid_mid", where="generated")] if edited else []
        options = {"edits": edits, "sites": SITES}
        steps = list(endless.generate_stream(PROMPTS, max_new_tokens=COUNT, cache=cache, **options))
        tokens = torch.stack([step.tokens for step in steps], dim=1)
        for row, prompt in enumerate(PROMPTS):
            run = whole_run(endless, prompt, tokens[row], **options)
            for site in SITES:
                torch.testing.assert_close(
                    joined(steps, site, row), run[site][0], atol=1e-5, rtol=1e-4
                )

    @pytest.mark.parametrize("cache", ["dynamic", "none"])
    def test_a_site_of_queries_has_the_new_tokens_rows(self, cache, endless):
        steps = list(
            endless.generate_stream(
                PROMPTS[:1], sites="layers.1.pattern", max_new_tokens=COUNT, cache=cache
            )
        )
        run = whole_run(endless, PROMPTS[0], torch.stack([s.tokens[0] for s in steps]),
                        sites="layers.1.pattern")  # fmt: skip
        pattern = run["layers.1.pattern"][0]
        assert [s.activations["layers.1.pattern"].shape[2] for s in steps] == [6, 1, 1, 1, 1, 1]
        for index, step in enumerate(steps[1:]):
            got = step.activations["layers.1.pattern"][0, :, 0]
            torch.testing.assert_close(got, pattern[:, 6 + index, : 7 + index])

    def test_logits_are_read_at_all_places_of_the_prompt(self, endless):
        (step,) = endless.generate_stream(PROMPTS, sites="logits", max_new_tokens=1)
        expected = endless.run(PROMPTS, padding="left").logits
        torch.testing.assert_close(step.activations["logits"][step.mask], expected[step.mask])
        assert torch.equal(step.activations["logits"][:, -1], step.logits)

    def test_the_mask_leaves_out_padding_and_what_follows_a_rows_end(self, talker):
        end = int(talker.generate(PROMPTS, max_new_tokens=1).tokens[1, 0])
        talker.module.generation_config.eos_token_id = end
        first, second = list(talker.generate_stream(PROMPTS, max_new_tokens=2))
        assert first.mask.sum(-1).tolist() == [6, 2, 4]
        assert first.ended[1]
        assert second.mask.tolist() == [[not ended] for ended in first.ended.tolist()]

    def test_the_text_is_the_same_whether_anything_is_read(self, talker, traces):
        before = traces(talker.module)
        plain = list(talker.generate_stream(PROMPTS, max_new_tokens=COUNT))
        read = list(talker.generate_stream(PROMPTS, max_new_tokens=COUNT, sites=SITES))
        for one, other in zip(plain, read, strict=True):
            assert torch.equal(one.logits, other.logits)
            assert one.texts == other.texts
            assert not one.activations
        assert traces(talker.module) == before

    def test_nothing_is_hooked_and_nothing_more_is_run_when_nothing_is_asked(self, talker):
        calls = []
        talker.module.register_forward_pre_hook(lambda module, args: calls.append(1))
        step = next(talker.generate_stream(PROMPTS, max_new_tokens=2))
        assert not step.activations
        assert len(calls) == 1
        assert not talker.plan((), ()).describe()

    def test_sites_without_tokens_are_refused(self, talker):
        with pytest.raises(SiteError, match="sites of the tokens of one step"):
            next(talker.generate_stream(PROMPTS, sites="cache.0.k"))
        with pytest.raises(SiteError, match="layers"):
            next(talker.generate_stream(PROMPTS, sites="layers.9.resid_post"))


class TestStop:
    @pytest.mark.parametrize("cache", ["dynamic", "none"])
    def test_a_row_ends_before_the_token_and_the_others_go_on(self, cache, endless):
        free = endless.generate(PROMPTS, max_new_tokens=COUNT, cache=cache)
        seen = []

        def stop(step):
            seen.append(step.texts)
            return torch.tensor([False, len(seen) == 3, False])

        made = endless.generate(PROMPTS, max_new_tokens=COUNT, cache=cache, stop=stop)
        assert torch.equal(made.tokens[[0, 2]], free.tokens[[0, 2]])
        assert torch.equal(made.tokens[1, :2], free.tokens[1, :2])
        assert (made.tokens[1, 2:] == 0).all()
        assert made.texts[1] == " ".join(free.texts[1].split()[:2])
        assert seen[2][1].strip() == free.texts[1].split()[2]  # it was shown what it withheld

    def test_it_is_over_when_all_have_stopped(self, endless):
        made = endless.generate(
            PROMPTS, max_new_tokens=9, stop=lambda step: torch.ones(3, dtype=torch.bool)
        )
        assert made.tokens.shape == (3, 1)
        assert made.texts == ["", "", ""]

    def test_steps_say_what_the_generation_says(self, endless):
        def stop(step):
            return step.logits.max(-1).values > 3.0

        whole = endless.generate(PROMPTS, max_new_tokens=12, stop=stop)
        steps = list(endless.generate_stream(PROMPTS, max_new_tokens=12, stop=stop))
        said = ["".join(texts) for texts in zip(*(s.texts for s in steps), strict=True)]
        assert said == whole.texts
        assert len({len(text) for text in said}) > 1

    def test_it_may_look_at_what_was_read(self, endless):
        site = "layers.1.resid_post"
        run = endless.run(PROMPTS, sites=site, padding="left")
        bound = float(run[site][:, -1, 0].sort().values[-2:].mean())  # one of three is above

        def stop(step):
            return step.activations[site][:, -1, 0] > bound

        first = next(endless.generate_stream(PROMPTS, sites=site, stop=stop))
        assert first.ended.tolist() == (run[site][:, -1, 0] > bound).tolist()
        assert first.ended.sum() == 1

    def test_a_stopped_row_ends_with_an_end_of_sequence(self, talker):
        ends = torch.as_tensor(talker.module.generation_config.eos_token_id).flatten()
        everyone = torch.ones(len(PROMPTS), dtype=torch.bool)
        made = talker.generate(PROMPTS, max_new_tokens=3, stop=lambda step: everyone)
        assert torch.isin(made.tokens[:, 0], ends).all()

    @pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
    def test_steps_do_not_keep_the_text_before_them_alive(self, cache, endless):
        sites = ["layers.1.resid_post", "logits"]
        for step in endless.generate_stream(PROMPTS, max_new_tokens=4, sites=sites, cache=cache):
            kept = step.activations["layers.1.resid_post"]
            for held in (kept, step.logits):
                assert held.untyped_storage().nbytes() == held.numel() * held.element_size()

    @pytest.mark.parametrize("answer", [torch.tensor([True]), torch.zeros(3), True])
    def test_what_it_answers_must_be_a_bool_a_row(self, answer, endless):
        with pytest.raises(InputError, match=r"stop: expected bool \[3\]"):
            endless.generate(PROMPTS, max_new_tokens=2, stop=lambda step: answer)

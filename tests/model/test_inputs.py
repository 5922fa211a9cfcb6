"""What may be given to run on; and that padding changes nothing."""

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import InputError
from jackfield.model.inputs import check_length, encode_chats, pad, positions_of

TEXTS = ["w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16"]
SITES = ["layers.*.resid_post", "layers.1.z", "layers.1.k", "layers.0.mlp_post"]


class TestPadding:
    @pytest.mark.parametrize("padding", ["left", "right"])
    def test_a_batch_is_its_rows(self, padding, talker):
        batch = talker.run(TEXTS, sites=SITES, padding=padding)
        for row, text in enumerate(TEXTS):
            alone, real = talker.run(text, sites=SITES), batch.mask[row]
            assert torch.allclose(batch.logits[row][real], alone.logits[0], atol=1e-5)
            assert torch.equal(batch.tokens[row][real], alone.tokens[0])
            assert torch.equal(batch.positions[row][real], alone.positions[0])
            for name in batch.sites:
                assert torch.allclose(batch[name][row][real], alone[name][0], atol=1e-5), name

    def test_in_float64_only_rounding_is_left(self, talker):
        model = jf.wrap(talker.module.double(), talker.tokenizer)
        left, right = (model.run(TEXTS, padding=side) for side in ("left", "right"))
        for row, text in enumerate(TEXTS):
            alone = model.run(text).logits[0]
            for run in (left, right):
                # the norms of this model are float32 inside
                assert (run.logits[row][run.mask[row]] - alone).abs().max() < 1e-6

    def test_padding_is_said(self, talker):
        run = talker.run(TEXTS, padding="left")
        assert run.mask.tolist()[1] == [False, False, False, True, True]
        assert run.positions.tolist()[1] == [-1, -1, -1, 0, 1]
        assert run.tokens.tolist()[1] == [0, 0, 0, 12, 13]

    def test_masks_and_positions_are_always_passed(self, talker):
        for given in (TEXTS, torch.tensor([[5, 6]]), {"input_ids": torch.tensor([[5, 6]])}):
            call = talker.inputs(given).call
            assert set(call) == {"input_ids", "attention_mask", "position_ids", "use_cache"}
            assert call["use_cache"] is False

    def test_models_that_take_neither_get_neither(self):
        class Bag(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(10, 4)

            def get_input_embeddings(self):
                return self.table

            def forward(self, input_ids):
                return self.table(input_ids).sum(1)

        net = Bag()
        tokens = torch.tensor([[1, 2, 3]])
        run = jf.wrap(net).run(tokens, sites=["table:out"])
        assert torch.equal(run.output, net(tokens))


class TestKinds:
    def test_text_texts_and_ids_are_the_same(self, talker):
        ids = torch.tensor([[7, 8, 9]])
        expected = talker.run("w7 w8 w9").logits
        for given in (["w7 w8 w9"], ("w7 w8 w9",), ids, ids[0], ids.int(), {"input_ids": ids}):
            assert torch.equal(talker.run(given).logits, expected)

    def test_a_mapping_is_completed_and_otherwise_left_alone(self, talker):
        ids, mask = torch.tensor([[0, 0, 7, 8], [9, 10, 11, 12]]), torch.ones(2, 4)
        mask[0, :2] = 0
        run = talker.run({"input_ids": ids, "attention_mask": mask, "labels": ids})
        assert torch.allclose(run.logits[0, 2:], talker.run("w7 w8").logits[0], atol=1e-5)
        assert run.mask.tolist()[0] == [False, False, True, True]
        assert run.output.loss is not None
        own = {"input_ids": ids, "position_ids": torch.arange(4)[None] + 3}
        assert torch.equal(talker.inputs(own).call["position_ids"], own["position_ids"])

    def test_embeddings_are_padded_like_tokens(self, talker):
        ids, mask = torch.tensor([[0, 0, 7, 8]]), torch.tensor([[0, 0, 1, 1]])
        x = talker.module.model.embed_tokens(ids).detach()
        run = talker.run({"inputs_embeds": x, "attention_mask": mask}, sites=["embed"])
        assert torch.allclose(run.logits[0, 2:], talker.run("w7 w8").logits[0], atol=1e-5)
        assert torch.equal(run["embed"], x)
        assert run.tokens is None

    def test_a_mask_of_four_axes_is_the_callers_business(self, talker):
        ids = torch.tensor([[7, 8, 9]])
        mask = torch.ones(1, 1, 3, 3).tril().bool()
        got = talker.run({"input_ids": ids, "attention_mask": mask}).logits
        assert torch.allclose(got, talker.run(ids).logits, atol=1e-6)

    def test_tokenize_gives_the_arguments_of_the_bare_module(self, talker):
        call = talker.tokenize(TEXTS, labels=True, padding="left")
        out = talker.module(**call)
        run = talker.run(TEXTS, padding="left")
        assert torch.equal(out.logits, run.logits)
        assert (call["labels"] == -100).equal(~run.mask)
        shares = run.logits[:, :-1].log_softmax(-1)
        each = shares.gather(-1, run.tokens[:, 1:, None])[..., 0]
        assert torch.allclose(out.loss, -each[run.mask[:, 1:] & run.mask[:, :-1]].mean(), atol=0.2)
        kept = call["labels"][:, 1:] != -100
        assert torch.allclose(out.loss, -each[kept].mean(), atol=1e-5)

    def test_token_strings(self, talker, tiny):
        assert talker.token_strings(torch.tensor([7, 0])) == ["w7", "<pad>"]
        assert tiny.token_strings([7, 0]) == ["7", "0"]


CHATS = [
    [{"role": "user", "content": "w7 w8"}, {"role": "assistant", "content": "w9"}],
    [{"role": "system", "content": "w10"}, {"role": "user", "content": "w11"}],
]


class TestChats:
    def test_a_chat_is_what_the_template_makes_of_it(self, talker):
        run = talker.run(CHATS[0])
        text = "<user> w7 w8 <end> <assistant> w9 <end>"
        assert torch.equal(run.logits, talker.run(text).logits)
        both = talker.run(CHATS, padding="left")
        assert both.tokens.shape == (2, 7)
        assert torch.allclose(both.logits[0], run.logits[0], atol=1e-5)

    def test_each_token_has_the_role_that_brought_it(self, talker):
        rows, spans, roles = encode_chats(talker.tokenizer, CHATS, limit=None, where="here")
        assert roles == ("user", "assistant", "system")
        assert [[roles[role] for role in span] for span in spans] == [
            ["user"] * 4 + ["assistant"] * 3,
            ["system"] * 3 + ["user"] * 3,
        ]
        assert list(map(len, rows)) == [7, 6]

    def test_what_the_template_writes_is_not_begun_twice(self, talker):
        """Some templates begin with the token that the tokenizer puts before every text."""
        from tokenizers.processors import TemplateProcessing

        begin = TemplateProcessing(single="w99 $A", special_tokens=[("w99", 99)])
        talker.tokenizer.backend_tokenizer.post_processor = begin
        talker.tokenizer.chat_template = "w99 " + talker.tokenizer.chat_template
        assert talker.inputs("w7").tokens.tolist() == [[99, 7]]
        assert talker.inputs(CHATS[0]).tokens[0].tolist() == [99, 1, 7, 8, 4, 2, 9, 4]
        made = talker.generate(CHATS[1], max_new_tokens=1)
        assert made.prompts == ["w99 <system> w10 <end> <user> w11 <end> <assistant>"]

    def test_the_answer_that_begins_is_the_assistants(self, talker):
        rows, spans, roles = encode_chats(
            talker.tokenizer, CHATS[1:], limit=None, where="here", answer=True
        )
        assert rows[0][-1] == 2
        assert roles[spans[0][-1]] == "assistant"

    def test_a_template_that_rewrites_runs_without_spans(self, talker):
        from jackfield import edits as E
        from jackfield.core.errors import EditError
        from jackfield.core.where import Role

        talker.tokenizer.chat_template = "{{ messages | length }} {{ messages[-1]['content'] }}"
        run = talker.run(CHATS[0])
        assert run.tokens.shape == (1, 2)
        with pytest.raises(EditError, match="changes earlier messages"):
            talker.run(CHATS[0], edits=[E.ZeroOut(at="embed", where=Role("user"))])

    def test_a_chat_that_the_template_refuses_is_an_input_error(self, talker):
        talker.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(InputError, match="roles must alternate"):
            talker.run(CHATS[0])

    def test_a_message_without_a_role(self, talker):
        with pytest.raises(InputError, match="got one without a role"):
            talker.run([{"content": "w7"}])

    def test_no_template(self, talker, tiny):
        with pytest.raises(InputError, match="a chat template, for messages, got none"):
            tiny.run(CHATS[0])
        talker.tokenizer.chat_template = None
        with pytest.raises(InputError, match="a chat template, for messages, got none"):
            talker.run(CHATS)


class TestParts:
    def test_pad(self):
        ids, mask = pad([[1, 2, 3], [4]], side="left", value=9)
        assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
        assert mask.tolist() == [[True, True, True], [False, False, True]]
        assert pad([[1, 2, 3], [4]], side="right", value=9)[0].tolist() == [[1, 2, 3], [4, 9, 9]]

    def test_positions_count_the_real_tokens(self):
        mask = torch.tensor([[False, True, True], [True, True, False]])
        assert positions_of(mask).tolist() == [[0, 0, 1], [0, 1, 1]]

    def test_a_length_within_the_bound_passes(self):
        check_length(5, 5, "here")
        check_length(5, None, "here")
        with pytest.raises(InputError, match="here: expected at most 5 tokens"):
            check_length(6, 5, "here")


@pytest.mark.slow
def test_the_default_models_chat_is_its_own_template(smollm2):
    chat = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello!"}]
    expected = smollm2.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert smollm2.inputs(chat).tokens[0].tolist() == list(expected)
    _, spans, roles = encode_chats(smollm2.tokenizer, [chat], limit=None, where="here")
    assert spans is not None
    assert set(spans[0]) == set(range(len(roles)))

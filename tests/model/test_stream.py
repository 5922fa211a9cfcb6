"""The live stream against one forward a document, read by a plain hook."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import InputError, JackfieldWarning, SiteError
from jackfield.core.where import Rows, Tokens
from jackfield.model.stream import LiveStream
from jackfield.streams import Batch, Stream
from jackfield.streams.tokenised import Held

SITE = "layers.1.resid_post"
# Of unequal lengths; with 15 places a row, packing cuts none of the first four.
TEXTS = [
    " ".join(f"w{(7 * i + 3 * j) % 90 + 5}" for j in range(length))
    for i, length in enumerate([7, 6, 9, 4])
]


@pytest.fixture(autouse=True)
def _without_sinks(request):
    """The tiny model has none; finding that out is another test's matter."""
    if "talker" in request.fixturenames:
        request.getfixturevalue("talker").__dict__["sinks"] = ()


def plain_rows(model: jf.Model, texts: list[str]) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """[row, d] after block 1 for each token, and (document, position, token) of each."""
    held: list[Tensor] = []
    handle = model.module.model.layers[1].register_forward_hook(lambda m, a, out: held.append(out))
    labels = []
    for index, text in enumerate(texts):
        ids = model.tokenizer(text)["input_ids"]
        with torch.no_grad():
            model.module(torch.tensor([ids]))
        labels += [(index, position, token) for position, token in enumerate(ids)]
    handle.remove()
    return torch.cat([x[0] for x in held]), labels


def sorted_rows(batch) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """The same of a stream's rows, in the order of the documents."""
    labels = list(
        zip(batch.documents.tolist(), batch.positions.tolist(), batch.tokens.tolist(), strict=True)
    )
    order = sorted(range(len(labels)), key=labels.__getitem__)
    return batch[SITE][order], [labels[index] for index in order]


class TestRows:
    @pytest.mark.parametrize("batch_tokens", [1, 20, 2048])
    @pytest.mark.parametrize("pack", [False, True])
    def test_they_are_those_of_each_document_by_itself(self, pack, batch_tokens, talker):
        stream = talker.stream(TEXTS, SITE, pack=pack, context=15, batch_tokens=batch_tokens)
        got, labels = sorted_rows(stream.collect())
        expected, known = plain_rows(talker, TEXTS)
        assert labels == known
        assert torch.allclose(got, expected, atol=1e-5)

    def test_a_long_document_comes_in_pieces_run_by_themselves(self, talker):
        text = " ".join(f"w{i}" for i in range(5, 30))
        got, labels = sorted_rows(talker.stream([text], SITE, context=10).collect())
        pieces = [" ".join(text.split()[start : start + 10]) for start in (0, 10, 20)]
        expected, _ = plain_rows(talker, pieces)
        assert [position for _, position, _ in labels] == list(range(25))
        assert torch.allclose(got, expected, atol=1e-5)

    def test_the_context_of_the_model_is_the_longest_piece(self, talker):
        text = " ".join(f"w{i % 90 + 5}" for i in range(100))
        batch = talker.stream([text], SITE, context=1000).collect()
        assert len(batch) == 100
        assert torch.allclose(
            batch[SITE][:64], plain_rows(talker, [" ".join(text.split()[:64])])[0]
        )

    def test_several_sites_are_aligned(self, talker):
        sites = ["layers.*.z", SITE, "layers.0.mlp_post"]
        batch = talker.stream(TEXTS, sites).collect()
        assert batch.sites == ("layers.0.z", "layers.1.z", "layers.2.z", SITE, "layers.0.mlp_post")
        assert batch["layers.1.z"].shape == (26, 4, 8)
        alone = talker.stream(TEXTS, "layers.1.z").collect()
        assert torch.equal(batch["layers.1.z"], alone["layers.1.z"])

    def test_chats_are_rendered_and_token_rows_taken_as_they_are(self, talker):
        chat = [{"role": "user", "content": "w7 w8"}]
        batch = talker.stream(jf.corpus([chat]), SITE).collect()
        got, _ = sorted_rows(batch)
        expected, _ = plain_rows(talker, ["<user> w7 w8 <end>"])
        assert torch.allclose(got, expected, atol=1e-5)

    def test_edits_are_in_place(self, talker):
        edit = E.Scale(3.0, at="layers.0.mlp_out", where=[1])
        got, _ = sorted_rows(talker.stream(TEXTS, SITE, edits=[edit]).collect())
        expected = [talker.run(t, sites=SITE, edits=[edit])[SITE][0] for t in TEXTS]
        assert torch.allclose(got, torch.cat(expected), atol=1e-5)

    def test_a_dtype_is_that_of_the_rows(self, talker):
        batch = talker.stream(TEXTS, SITE, dtype=torch.bfloat16).collect()
        exact = talker.stream(TEXTS, SITE).collect()
        assert torch.equal(batch[SITE], exact[SITE].bfloat16())

    def test_nothing_carries_a_graph_and_no_hook_is_left(self, talker, traces):
        before = traces(talker.module)
        stream = talker.stream(TEXTS, ["layers.1.z", SITE])
        for batch in itertools.islice(stream, 1):
            assert not batch[SITE].requires_grad
            assert traces(talker.module) == before
        assert traces(talker.module) == before


class TestChoice:
    def chosen(self, talker, **options):
        _, labels = sorted_rows(talker.stream(TEXTS, SITE, **options).collect())
        return labels

    def test_where(self, talker):
        every = plain_rows(talker, TEXTS)[1]
        assert self.chosen(talker, where=[0, 3]) == [x for x in every if x[1] in (0, 3)]
        assert self.chosen(talker, where=slice(2, None)) == [x for x in every if x[1] >= 2]
        assert self.chosen(talker, where=Tokens((8, 11))) == [x for x in every if x[2] in (8, 11)]
        last = [max(x for x in every if x[0] == index) for index in range(4)]
        assert self.chosen(talker, where="last") == last

    def test_sink_positions_are_left_out_unless_asked_for(self, talker):
        talker.__dict__["sinks"] = (0, 2)
        every = plain_rows(talker, TEXTS)[1]
        assert self.chosen(talker) == [x for x in every if x[1] not in (0, 2)]
        assert self.chosen(talker, where="all") == every
        assert "without sink positions [0, 2]" in repr(talker.stream(TEXTS, SITE))

    def test_special_tokens_are_left_out_unless_asked_for(self, talker):
        texts = ["w7 <eos> w8", "w9"]
        rows = {
            keep: talker.stream(texts, SITE, keep_special=keep).collect() for keep in (False, True)
        }
        assert sorted(rows[False].tokens.tolist()) == [7, 8, 9]
        assert sorted(rows[True].tokens.tolist()) == [7, 8, 9, 100]
        packed = talker.stream(texts, SITE, keep_special=True, pack=True, context=15).collect()
        assert sorted(packed.tokens.tolist()) == [7, 8, 9, 100]  # those put between are no rows

    @pytest.mark.parametrize("most", [1, 5, 26, 27])
    def test_at_most_so_many(self, most, talker):
        stream = talker.stream(TEXTS, SITE, max_tokens=most, batch_tokens=10)
        whole = talker.stream(TEXTS, SITE, batch_tokens=10).collect()
        assert stream.rows is None
        batch = stream.collect()
        assert len(batch) == min(most, 26) == stream.rows
        assert torch.equal(batch[SITE], whole[SITE][:most])

    def test_no_more_is_run_than_needed(self, talker):
        calls = []
        talker.module.register_forward_pre_hook(lambda *_: calls.append(1))
        talker.stream(TEXTS * 10, SITE, max_tokens=5, batch_tokens=10).collect()
        assert len(calls) == 1


class TestRecipe:
    def test_each_pass_is_the_same_anew(self, talker):
        stream = talker.stream(TEXTS, SITE, batch_tokens=20)
        assert isinstance(stream, Stream)
        once, again = stream.collect(), stream.collect()
        assert torch.equal(once[SITE], again[SITE])
        assert torch.equal(once.tokens, again.tokens)

    def test_making_it_runs_nothing(self, talker):
        calls = []
        talker.module.register_forward_pre_hook(lambda *_: calls.append(1))
        stream = talker.stream(TEXTS, SITE, pack=True)
        repr(stream)
        assert not calls

    def test_two_passes_at_once(self, talker):
        stream = talker.stream(TEXTS, SITE, batch_tokens=10)
        pairs = zip(stream, stream, strict=True)
        assert all(torch.equal(a[SITE], b[SITE]) for a, b in pairs)

    def test_what_it_is_is_said_for_what_is_made_of_it(self, talker):
        edit = E.ZeroOut(at="layers.0.z")
        said = talker.stream(TEXTS, SITE, max_tokens=9, where=[1], edits=[edit]).provenance
        assert said["model"]["name"] == "talker"
        assert said["where"] == {"kind": "Positions", "indices": (1,)}
        assert (said["max_tokens"], said["pack"]) == (9, False)
        assert [each["edit"] for each in said["edits"]] == [repr(replace(edit, at=edit.sites))]


@pytest.fixture
def forwards(talker):
    """Grows by one with each forward."""
    calls: list[int] = []
    talker.module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


MANY = [" ".join(f"w{(i * j) % 90 + 5}" for j in range(1 + i % 13)) for i in range(60)]


class TestFromARow:
    @pytest.mark.parametrize("pack", [False, True])
    @pytest.mark.parametrize("most", [None, 200])
    def test_the_rows_are_those_of_the_whole_pass(self, most, pack, talker):
        options = {"max_tokens": most, "pack": pack, "batch_tokens": 40, "context": 15}
        stream = talker.stream(MANY, SITE, **options)
        whole = stream.collect()
        for start in (0, 1, 37, len(whole) - 1):
            rest = Batch.concat(list(stream.batches(start)))
            for name in ("documents", "positions", "tokens"):
                assert torch.equal(getattr(rest, name), getattr(whole, name)[start:])
            assert torch.equal(rest[SITE], whole[SITE][start:])
        assert list(stream.batches(len(whole))) == []
        assert stream.rows == len(whole)

    def test_no_more_is_run_than_needed(self, talker, forwards):
        stream = talker.stream(MANY, SITE, batch_tokens=40, context=15)
        sizes = [len(batch) for batch in stream]
        assert len(forwards) == len(sizes) > 5
        for start in (0, sizes[0] - 1, sizes[0], sum(sizes[:4]) + 1, sum(sizes)):
            forwards.clear()
            list(stream.batches(start))
            before = sum(1 for index in range(len(sizes)) if sum(sizes[: index + 1]) <= start)
            assert len(forwards) == len(sizes) - before

    def test_a_batch_without_rows_is_not_run(self, talker, forwards):
        batch = talker.stream(TEXTS, SITE, where=[8], batch_tokens=9, context=9).collect()
        assert batch.positions.tolist() == [8]
        assert len(forwards) == 1


class TestTexts:
    def test_each_row_has_its_word(self, talker):
        for options in ({}, {"pack": True, "context": 15}, {"batch_tokens": 1, "context": 4}):
            for batch in talker.stream(MANY, SITE, **options):
                assert set(batch.texts.documents) == set(batch.documents.tolist())
                for row in range(len(batch)):
                    text = batch.texts.documents[int(batch.documents[row])]
                    start = int(text.starts[batch.positions[row]])
                    word = text.text[start:].split()[0]
                    assert word == f"w{batch.tokens[row]}"
                    assert word == batch.texts.vocabulary[batch.tokens[row]]

    def test_columns_go_with_them(self, talker):
        records = [{"text": text, "url": f"u{i}"} for i, text in enumerate(TEXTS)]
        batch = talker.stream(jf.corpus(records, keep=["url"]), SITE).collect()
        assert [batch.texts.documents[i].columns["url"] for i in range(4)] == [
            "u0",
            "u1",
            "u2",
            "u3",
        ]

    def test_chats_and_tokens_have_texts(self, talker):
        source = jf.corpus([[{"role": "user", "content": "w7 w8"}], torch.tensor([9, 10])])
        texts = talker.stream(source, SITE).collect().texts.documents
        assert texts[0].text == "<user> w7 w8 <end> "
        assert texts[0].starts.tolist() == [0, 7, 10, 13]
        assert (texts[1].text, texts[1].starts.tolist()) == ("w9w10", [0, 2])

    @pytest.mark.parametrize("pack", [False, True])
    def test_a_text_goes_when_its_last_token_is_out(self, pack, talker, monkeypatch):
        most = []
        plain = Held.release

        def watched(held, documents):
            most.append(len(held))
            plain(held, documents)

        monkeypatch.setattr(Held, "release", watched)
        held = []
        monkeypatch.setattr(Held, "__init__", _remembering(Held.__init__, held))
        stream = talker.stream(MANY * 20, SITE, pack=pack, batch_tokens=30, context=15)
        assert sum(map(len, stream)) == 20 * sum(len(text.split()) for text in MANY)
        assert max(most) < 200  # of 1200
        assert [len(each) for each in held] == [0]


def _remembering(plain, made):
    def init(self):
        plain(self)
        made.append(self)

    return init


class TestLong:
    LONG = " ".join(f"w{i}" for i in range(5, 30))

    def test_cut_keeps_the_first_tokens_and_says_what_it_left_out(self, talker):
        stream = talker.stream([self.LONG, *TEXTS], SITE, context=10, long="cut")
        with pytest.warns(JackfieldWarning, match="left out 15 tokens of 1 documents"):
            batch = stream.collect()
        assert stream.left_out == 15
        got, labels = sorted_rows(batch)
        short = " ".join(self.LONG.split()[:10])
        expected, known = plain_rows(talker, [short, *TEXTS])
        assert labels == known
        assert torch.allclose(got, expected, atol=1e-5)
        assert batch.texts.documents[0].text == f"{short} "

    def test_nothing_is_said_where_nothing_is_cut(self, talker):
        for long in ("cut", "split"):
            stream = talker.stream(TEXTS, SITE, long=long)
            stream.collect()
            assert (stream.left_out, stream.provenance["long"]) == (0, long)

    def test_a_begin_token_has_its_place(self, talker):
        talker.tokenizer.bos_token = "<system>"
        talker.tokenizer._tokenizer.post_processor = _beginning("<system>", 3)
        stream = talker.stream([self.LONG, torch.arange(5, 30)], SITE, context=10, long="cut")
        with pytest.warns(JackfieldWarning, match="left out 32 tokens of 2 documents"):
            batch = stream.collect()
        assert batch.documents.bincount().tolist() == [9, 9]  # nine words each, and no piece more

    def test_another_word(self, talker):
        with pytest.raises(InputError, match="'split' or 'cut', got 'drop'"):
            talker.stream(TEXTS, SITE, long="drop")


def _beginning(token, number):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


class TestParts:
    def test_spans_and_parts_are_the_whole(self, talker):
        whole, labels = sorted_rows(talker.stream(MANY, SITE).collect())
        stream = talker.stream(MANY, SITE)
        assert stream.documents == len(MANY)
        for streams in (
            [stream.span(0, 17), stream.span(17, 50), stream.span(50)],
            [talker.stream(jf.corpus(MANY).part(rank, 3), SITE) for rank in range(3)],
        ):
            got, known = sorted_rows(Batch.concat([each.collect() for each in streams]))
            assert known == labels
            assert torch.allclose(got, whole, atol=1e-5)

    def test_all_else_is_equal(self, talker):
        options = {"max_tokens": 9, "batch_tokens": 20, "context": 8, "pack": True, "long": "split"}
        edit = E.Scale(2.0, at="layers.0.z")
        stream = talker.stream(MANY, SITE, where=[1], keep_special=True, edits=[edit], **options)
        said = stream.provenance
        assert "part" not in said
        assert "span" not in said
        assert stream.span(3, 9).provenance == {**said, "span": [3, 9]}
        part = talker.stream(
            jf.corpus(MANY).part(1, 2), SITE, where=[1], keep_special=True, edits=[edit], **options
        )
        assert part.provenance == {**said, "part": [1, 2]}

    def test_tensors_have_no_numbers(self):
        stream = jf.wrap(nn.Sequential(nn.Linear(3, 4))).stream([torch.randn(5, 3)], ["0:out"])
        assert stream.documents is None
        with pytest.raises(InputError, match="a stream over documents"):
            stream.span(0, 1)
        with pytest.raises(InputError, match="a stream over documents"):
            stream.cost()


class TestElsewhere:
    @pytest.fixture
    def model(self, tiny_folder):
        model = jf.load(tiny_folder)
        model.__dict__["sinks"] = ()
        return model

    TEXTS = ("the cat sat the", "cat the sat", "sat sat the cat sat")
    SITE = "layers.0.resid_post"

    def test_the_same_stream_is_made_from_json(self, model):
        edits = [
            E.Add(torch.randn(8), at="layers.0.mlp_out", strength=2.0, where=slice(1, None)),
            E.ZeroOut(at=["layers.1.z"]),
        ]
        stream = model.stream(
            list(self.TEXTS), self.SITE, where="all", dtype=torch.bfloat16, edits=edits, context=4
        ).span(1)
        recipe = json.loads(json.dumps(stream.recipe()))
        again = LiveStream.from_recipe(recipe, device="cpu")
        assert json.dumps(again.provenance) == json.dumps(stream.provenance)
        one, other = stream.collect(), again.collect()
        assert torch.equal(one[self.SITE], other[self.SITE])
        assert torch.equal(one.documents, other.documents)

    def test_the_dtype_is_the_models_own(self, tiny_folder):
        model = jf.load(tiny_folder, dtype=torch.bfloat16)
        stream = model.stream(list(self.TEXTS), self.SITE, where="all")
        again = LiveStream.from_recipe(stream.recipe())
        assert again.collect()[self.SITE].dtype == torch.bfloat16

    def test_what_only_this_process_has(self, model, talker):
        with pytest.raises(InputError, match=r"a model as jf\.load gives it, got a wrapped module"):
            talker.stream(TEXTS, SITE).recipe()
        with pytest.raises(InputError, match="Write the documents to a file"):
            model.stream(lambda: iter(self.TEXTS), self.SITE).recipe()
        for function in (lambda x: x, torch.relu):
            edit = E.Function(function, at=self.SITE)
            with pytest.raises(InputError, match="edits that can be saved as data"):
                model.stream(list(self.TEXTS), self.SITE, edits=[edit]).recipe()

    def test_edits_that_differ_in_a_tensor_are_told_apart(self, model):
        said = [
            model.stream(list(self.TEXTS), self.SITE, edits=[E.Add(x, at=self.SITE)]).provenance
            for x in (torch.zeros(8), torch.ones(8), torch.ones(8))
        ]
        assert said[0] != said[1] == said[2]


class TestRefused:
    @pytest.mark.parametrize(
        "rule", ["last", "prompt", "generated & ~sinks", [-1], slice(-2, None)]
    )
    def test_packed_rows_have_no_one_end(self, rule, talker):
        with pytest.raises(InputError, match="the end of a packed row"):
            talker.stream(TEXTS, SITE, pack=True, where=rule)
        with pytest.raises(InputError, match="the end of a packed row"):
            talker.stream(TEXTS, SITE, pack=True, edits=[E.ZeroOut(at="layers.0.z", where=rule)])
        talker.stream(TEXTS, SITE, where=rule)

    @pytest.mark.parametrize("rule", [Rows((0,)), torch.ones(1, 1, dtype=torch.bool)], ids=str)
    def test_rows_of_a_batch_are_not_the_users(self, rule, talker):
        with pytest.raises(InputError, match="does not name rows of a batch"):
            talker.stream(TEXTS, SITE, where=rule)

    def test_a_model_in_which_packed_documents_see_each_other(self, talker):
        from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM

        sizes = {
            "vocab_size": 101,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        bert = BertModel(BertConfig(**sizes, intermediate_size=48), add_pooling_layer=False)
        opt = OPTForCausalLM(OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32))
        for module in (bert, opt):
            model = jf.wrap(module.eval(), talker.tokenizer)
            stream = model.stream(TEXTS, SITE, pack=True, where="all")
            with pytest.raises(InputError, match=r"keep packed documents apart.* Say pack=False"):
                stream.collect()
            model.stream(TEXTS, SITE, where="all").collect()

    def test_sites_without_a_row_a_token(self, talker):
        with pytest.raises(SiteError, match="a site with a row a token"):
            talker.stream(TEXTS, "layers.1.pattern")
        with pytest.raises(SiteError, match=r"Did you mean layers\.1\.resid_post"):
            talker.stream(TEXTS, "layers.1.resid_pots")
        with pytest.raises(SiteError, match="a forward that makes a cache"):
            talker.stream(TEXTS, "cache.1.k").collect()


def test_a_model_without_tokens_streams_its_inputs():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = [torch.randn(5, 3), torch.randn(2, 3)]
    batches = list(jf.wrap(net).stream(inputs, ["1:out"]))
    assert [batch.documents.tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6]]
    assert all(batch.tokens is None for batch in batches)
    for batch, x in zip(batches, inputs, strict=True):
        assert torch.equal(batch["1:out"], net[1](net[0](x)))


@pytest.mark.slow
def test_the_default_model_leaves_its_sink_out(smollm2):
    texts = ["The quick brown fox jumps over the lazy dog.", "Hello world, this is a test."]
    stream = smollm2.stream(texts, "layers.15.resid_post")
    batch = stream.collect()
    assert 0 not in batch.positions
    norms = batch["layers.15.resid_post"].norm(dim=-1)
    assert norms.max() < 10 * norms.median()
    first = smollm2.stream(texts, "layers.15.resid_post", where=[0]).collect()
    assert first["layers.15.resid_post"].norm(dim=-1).min() > 10 * norms.median()

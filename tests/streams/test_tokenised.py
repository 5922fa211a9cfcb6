"""Where tokens start, against texts whose cutting is known."""

import itertools
import random

import pytest
import torch

from jackfield.streams import Document
from jackfield.streams.tokenised import Held, tokenised
from jackfield.streams.vocabulary import vocabulary_of
from jackfield.testing import tiny_tokenizer

CHARACTERS = [
    "a",
    "b",
    " ",
    "\n",
    "é",
    "ß",
    "日",
    "本",
    "🙂",
    "👩🏽‍🚀",
    "\u0301",
    "ﬁ",
    "  ",
    ".",
    "Paris ",
]


def fast(model, **options):
    """A fast tokenizer around a model of `tokenizers`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(model)
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        if name in options:
            setattr(backend, name, options.pop(name))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def byte_level(**options):
    """Bytes only, each its own token, but for a few merges; id 256 is the begin token."""
    from tokenizers import decoders, models, pre_tokenizers, processors

    trim = options.pop("trim", False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["Pa", "ri", "Pari", "Paris", "ĠParis", "Ġa"]
    merges = [("P", "a"), ("r", "i"), ("Pa", "ri"), ("Pari", "s"), ("Ġ", "Paris"), ("Ġ", "a")]
    words = {word: index for index, word in enumerate([*alphabet, "<s>", *merged])}
    return fast(
        models.BPE(words, merges),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
        post_processor=processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=trim),
                processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)]),
            ]
        ),
        bos_token="<s>",
    )


def sentencepiece():
    """Pieces that begin with "▁", and bytes for what they lack, as in Llama's first tokenizers."""
    from tokenizers import decoders, models, normalizers

    letters = ["▁", *"abPris."]
    merged = ["▁P", "ar", "is", "▁Par", "▁Paris", "▁a"]
    merges = [("▁", "P"), ("a", "r"), ("i", "s"), ("▁P", "ar"), ("▁Par", "is"), ("▁", "a")]
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *merged]
    words = {word: index for index, word in enumerate(pieces)}
    return fast(
        models.BPE(words, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        unk_token="<unk>",
        bos_token="<s>",
    )


def wordpiece():
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = ["[UNK]", "the", "cat", "s", "##s", "##at", "."]
    words = {word: index for index, word in enumerate(pieces)}
    return fast(
        models.WordPiece(words, unk_token="[UNK]"),
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
        unk_token="[UNK]",
    )


def slow_bytes():
    """No offsets, and every token is one byte."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


def pieces(document, tokenizer):
    """(token id, the text up to the next token) of a document."""
    made = tokenised(document, tokenizer)
    starts = [*made.text.starts.tolist(), len(made.text.text)]
    assert starts == sorted(starts)
    cut = [made.text.text[a:b] for a, b in itertools.pairwise(starts)]
    return list(zip(made.tokens, cut, strict=True))


def random_texts(count, characters=CHARACTERS, seed=0):
    chance = random.Random(seed)
    return ["".join(chance.choices(characters, k=chance.randrange(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("trim", [False, True], ids=["whole offsets", "trimmed offsets"])
def test_the_tokens_of_a_character_share_its_start(trim):
    """Planted: each byte is a token, so the k-th byte's character is known from the text."""
    tokenizer = byte_level(trim=trim)
    ids = {word: index for word, index in tokenizer.get_vocab().items() if index > 256}
    for text in random_texts(200, [c for c in CHARACTERS if c != "Paris "]):
        found = tokenised(Document(0, text=text), tokenizer)
        merged = set(found.tokens) & set(ids.values())
        if trim and any(a.isspace() and b.isspace() for a, b in itertools.pairwise(text)):
            continue  # spaces that are trimmed off a run of them are nobody's
        if not merged:
            by_byte = [i for i, char in enumerate(text) for _ in char.encode()]
            assert found.text.starts.tolist() == [0, *by_byte]


@pytest.mark.parametrize("make", [byte_level, sentencepiece, slow_bytes])
def test_the_pieces_are_the_text_again(make):
    tokenizer = make()
    for text in random_texts(200):
        assert "".join(piece for _, piece in pieces(Document(0, text=text), tokenizer)) == text


@pytest.mark.parametrize("trim", [False, True], ids=["whole offsets", "trimmed offsets"])
def test_in_ascii_a_piece_is_what_its_token_says(trim):
    tokenizer = byte_level(trim=trim)
    vocabulary = vocabulary_of(tokenizer)
    for text in ["Paris", "a Paris in Paris.", "b a a", "x Paris a"]:
        (begin, nothing), *rest = pieces(Document(0, text=text), tokenizer)
        assert (begin, nothing) == (256, "")
        assert [piece for _, piece in rest] == [vocabulary[token] for token, _ in rest]


def test_a_word_says_its_space_however_it_is_written():
    for tokenizer, piece in [(byte_level(), "ĠParis"), (sentencepiece(), "▁Paris")]:
        vocabulary = vocabulary_of(tokenizer)
        assert vocabulary[tokenizer.convert_tokens_to_ids(piece)] == " Paris"
        assert vocabulary[tokenizer.convert_tokens_to_ids("<s>")] == "<s>"
        assert len(vocabulary) == len(tokenizer)
        assert vocabulary_of(tokenizer) is vocabulary
    assert vocabulary.says(len(vocabulary)) == vocabulary.says(-1) == ""
    said = vocabulary_of(tiny_tokenizer(["When Mary, left"]))
    assert list(said) == ["<pad>", "<unk>", "When", " Mary", ",", " left"]


def test_sentencepiece_words_and_bytes():
    tokenizer = sentencepiece()
    said = vocabulary_of(tokenizer)
    found = pieces(Document(0, text="a Paris 🙂 a"), tokenizer)
    assert [piece for _, piece in found[:2]] == ["a", " Paris"]
    assert [said[token] for token, _ in found[:2]] == [" a", " Paris"]
    assert [piece for _, piece in found[-6:]] == [" ", "", "", "", "🙂", " a"]


def test_tokens_that_the_tokenizer_puts_in_have_no_text():
    from tokenizers.processors import TemplateProcessing

    tokenizer = wordpiece()
    around = TemplateProcessing(single="[UNK] $A [UNK]", special_tokens=[("[UNK]", 0)])
    tokenizer.backend_tokenizer.post_processor = around
    found = pieces(Document(0, text="the cat"), tokenizer)
    assert [piece for _, piece in found] == ["", "the", " cat", ""]


def test_lower_case_and_parts_of_words():
    found = pieces(Document(0, text="The CATS sat."), wordpiece())
    assert [piece for _, piece in found] == ["The", " CAT", "S", " s", "at", "."]
    said = vocabulary_of(wordpiece())
    assert [said[token] for token, _ in found] == [" the", " cat", "s", " s", "at", "."]


def test_without_offsets_the_words_are_looked_for():
    tokenizer = slow_bytes()
    assert not tokenizer.is_fast
    found = tokenised(Document(0, text="é 🙂!"), tokenizer)
    assert found.text.starts.tolist() == [0, 0, 1, 2, 2, 2, 2, 3, 4]  # the last is the end token
    assert found.text.text == "é 🙂!"


@pytest.mark.parametrize("make", [byte_level, slow_bytes])
def test_tokens_without_a_text_get_what_they_say(make):
    tokenizer = make()
    text = "Paris é 🙂🙂 a"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = tokenised(Document(0, tokens=torch.tensor(ids)), tokenizer)
    read = tokenised(Document(0, text=text), tokenizer)
    inner = [n for n, token in enumerate(read.tokens) if token not in tokenizer.all_special_ids]
    assert found.text.text == text
    assert found.text.starts.tolist() == read.text.starts[inner].tolist()


def test_tokens_that_say_nothing_whole():
    tokenizer = byte_level()
    broken = tokenizer("🙂🙂", add_special_tokens=False)["input_ids"][1:7]
    found = tokenised(Document(0, tokens=torch.tensor([*broken, 10_000, 256])), tokenizer)
    assert len(found.text.starts) == 8
    assert found.text.text.endswith("<s>")
    assert tokenised(Document(0, text=""), tiny_tokenizer(["a"])).tokens == []


def test_columns_and_a_cut():
    document = Document(3, text="a Paris a", columns={"url": "x"})
    whole = tokenised(document, byte_level())
    cut = whole.cut(3)
    assert (cut.id, cut.tokens, cut.text.text) == (3, whole.tokens[:3], "a Paris")
    assert cut.text.starts.tolist() == [0, 0, 1]
    assert cut.text.columns == {"url": "x"}
    assert whole.cut(4) is whole


def test_a_text_is_held_until_its_last_token_is_out():
    tokenizer = tiny_tokenizer(["a b c d"])
    held = Held()
    documents = [tokenised(Document(n, text=t), tokenizer) for n, t in [(7, "a b c"), (9, "d")]]
    assert [number for number, _ in held.through(documents)] == [7, 9]
    held.release(torch.tensor([[7, 7, -1], [9, -1, -1]]))
    assert set(held.texts(torch.tensor([7]))) == {7}
    assert len(held) == 1
    held.release(torch.tensor([7]))
    assert len(held) == 0


@pytest.mark.slow
def test_the_default_models_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    said = vocabulary_of(tokenizer)
    sentence = "The capital of France is Paris, isn't it?\n\n  def f(x): return x + 1  # yes"
    for token, piece in pieces(Document(0, text=sentence), tokenizer):
        assert said[token] == piece
    assert " Paris" in list(said)
    for text in random_texts(200):
        found = pieces(Document(0, text=text), tokenizer)
        assert "".join(piece for _, piece in found) == text
        ids = [token for token, _ in found]
        again = tokenised(Document(0, tokens=torch.tensor(ids)), tokenizer)
        if tokenizer.decode(ids) == text:
            assert again.text.text == text

import datetime
import shutil

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.streams import Corpus, corpus

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


class Dataset:
    """What an HF dataset is to us: dicts each time it is iterated, and a fingerprint."""

    _fingerprint = "abc123"

    def __iter__(self):
        return iter([{"label": 0, "text": "One"}, {"label": 1, "text": "Two"}])


def test_strings_can_be_gone_through_twice():
    source = corpus(["One", "Two"])
    for _ in range(2):
        assert [(document.id, document.text) for document in source] == [(0, "One"), (1, "Two")]


def test_datasets_give_their_text_column():
    assert [document.text for document in corpus(Dataset())] == ["One", "Two"]
    assert corpus(Dataset()).provenance["fingerprint"] == "abc123"


def test_a_function_gives_a_new_iterator_each_time():
    source = corpus(lambda: iter(["One"]))
    assert [len(list(source)) for _ in range(2)] == [1, 1]


def test_chats_and_tokens():
    chat, tokens, listed = corpus([CHAT, torch.tensor([3, 4], dtype=torch.int32), [5, 6]])
    assert chat.messages == CHAT
    assert tokens.tokens.dtype == torch.int64
    assert listed.tokens.tolist() == [5, 6]


def test_empty_documents_are_left_out_and_counted_but_keep_their_number():
    source = corpus(["", "One", "", "Two"])
    assert [document.id for document in source] == [1, 3]
    assert source.skipped == 2
    list(source)
    assert source.skipped == 2


def test_limit_counts_what_is_given():
    source = corpus(["", "One", "Two"], limit=1)
    assert [document.text for document in source] == ["One"]


def test_a_corpus_is_its_own_corpus():
    source = corpus(["One", "Two", "Three"])
    assert corpus(source) is source
    fewer = corpus(source, limit=2)
    assert [document.text for document in fewer] == ["One", "Two"]
    assert fewer.provenance["of"] == source.provenance


def test_find_gives_the_documents_that_rows_name():
    source = corpus([f"Text {i}" for i in range(50)])
    found = source.find([7, 3, 7, 99])
    assert {name: document.text for name, document in found.items()} == {3: "Text 3", 7: "Text 7"}
    assert source.find([]) == {}


def test_find_stops_at_the_last_one():
    def read():
        yield "One"
        yield "Two"
        raise AssertionError

    assert corpus(read).find([1])[1].text == "Two"


@pytest.mark.parametrize("texts", [[], ["", ""]], ids=["none", "empty ones"])
def test_a_corpus_without_documents(texts):
    with pytest.raises(InputError, match="list: expected documents, got"):
        list(corpus(texts))


def test_columns_that_cannot_be_guessed():
    with pytest.raises(InputError, match=r"got the columns a, b\. Name it"):
        list(corpus([{"a": "One", "b": "Two"}]))
    assert next(iter(corpus([{"a": "One", "b": "Two"}], column="b"))).text == "Two"
    assert next(iter(corpus([{"only": "One"}]))).text == "One"


def test_a_generator_is_used_up_once():
    with pytest.raises(InputError, match=r"gone through again.*a generator"):
        corpus(text for text in ["One"])


@pytest.mark.parametrize("source", [3, {"text": "One"}], ids=["int", "dict"])
def test_what_is_not_a_corpus(source):
    with pytest.raises(InputError, match="corpus: expected 'docs', a path"):
        corpus(source)


@pytest.mark.parametrize("item", [3.5, [1.5], torch.ones(2)], ids=["float", "floats", "tensor"])
def test_what_is_not_a_document(item):
    with pytest.raises(InputError, match="list, document 1: expected a string, token ids"):
        list(corpus(["One", item]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit": 0}, "corpus: limit"), ({"split": "word"}, "'paragraph' or 'line', got 'word'")],
    ids=["limit", "split"],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        corpus(["One"], **options)


def test_provenance_follows_the_content_and_the_options(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One")
    sources = [corpus(["One"]), corpus(["Two"]), corpus(["One"], limit=1), corpus(path)]
    assert len({str(source.provenance) for source in sources}) == 4
    assert corpus(["One"]).provenance == corpus(["One"]).provenance
    before = corpus(path).provenance
    path.write_text("Two")
    assert corpus(path).provenance != before


def test_a_corpus_prints_itself():
    assert repr(corpus("docs", limit=2000)) == "Corpus(docs, at most 2,000 documents)"
    assert isinstance(corpus(["One"]), Corpus)


class TestColumns:
    RECORDS = ({"text": "One", "url": "a", "n": 1}, {"text": "Two", "url": None, "n": 2})

    def test_kept_ones_go_with_their_document(self):
        found = [document.columns for document in corpus(self.RECORDS, keep=("url", "n"))]
        assert found == [{"url": "a", "n": 1}, {"url": None, "n": 2}]
        assert [document.columns for document in corpus(self.RECORDS)] == [{}, {}]
        assert next(iter(corpus(self.RECORDS, keep="url"))).columns == {"url": "a"}

    def test_what_json_cannot_hold_is_kept_as_text(self):
        day = datetime.date(2024, 5, 1)
        (document,) = corpus([{"text": "One", "day": day}], keep=["day"])
        assert document.columns == {"day": "2024-05-01"}

    def test_chats_and_tokens_keep_theirs(self):
        records = [{"messages": CHAT, "n": 1}, {"input_ids": [4], "n": 2}]
        assert [document.columns["n"] for document in corpus(records, keep=["n"])] == [1, 2]

    def test_unknown_ones(self):
        with pytest.raises(InputError, match=r"document 0: .*got 'ulr'\. Did you mean url"):
            list(corpus(self.RECORDS, keep=["ulr"]))
        with pytest.raises(InputError, match="a record with url, got str"):
            list(corpus(["One"], keep=["url"]))


class TestDatasets:
    @pytest.fixture
    def datasets(self):
        return pytest.importorskip("datasets")

    @pytest.fixture
    def dataset(self, datasets):
        return datasets.Dataset.from_dict(
            {"n": list(range(600)), "body": list(map(str, range(600)))}
        )

    def test_a_dataset(self, dataset):
        source = corpus(dataset, column="body", keep=["n"])
        assert [(d.id, d.text, d.columns["n"]) for d in source] == [
            (i, str(i), i) for i in range(600)
        ]
        assert source.known() == 600
        assert source.provenance["fingerprint"] == dataset._fingerprint
        with pytest.raises(InputError, match="Did you mean body"):
            list(corpus(dataset, column="bdy"))
        with pytest.raises(InputError, match="save_to_disk"):
            source.recipe()

    def test_only_the_needed_columns_are_made(self, datasets):
        asked = []
        dataset = datasets.Dataset.from_dict({"text": ["One", "Two"], "other": ["x", "y"]})
        plain = type(dataset).select_columns
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(dataset), "select_columns", lambda *a: asked.append(a[1]) or plain(*a)
            )
            assert [document.text for document in corpus(dataset)] == ["One", "Two"]
        assert asked == [["text"]]

    def test_a_stream_of_one(self, dataset):
        source = corpus(dataset.to_iterable_dataset(), column="body", keep=["n"])
        for _ in range(2):
            assert [document.columns["n"] for document in source] == list(range(600))

    def test_splits(self, datasets, dataset, tmp_path):
        one, two = (dict.fromkeys(names, dataset) for names in (["train"], ["test", "train"]))
        assert len(list(corpus(datasets.DatasetDict(one), column="body"))) == 600
        with pytest.raises(
            InputError, match=r"the splits test, train\. Name one: dataset\['test'\]"
        ):
            corpus(datasets.DatasetDict(two))
        for name, splits in (("one", one), ("two", two)):
            datasets.DatasetDict(splits).save_to_disk(str(tmp_path / name))
        saved = corpus(tmp_path / "one", column="body")
        copied = shutil.copytree(tmp_path / "one", tmp_path / "copied")
        told = [each.provenance["fingerprint"] for each in (saved, corpus(copied, column="body"))]
        assert told[0] == told[1]
        assert [document.text for document in saved][:3] == ["0", "1", "2"]
        with pytest.raises(InputError, match="Name one: corpus"):
            corpus(tmp_path / "two")
        assert len(list(corpus(tmp_path / "two" / "test", column="body"))) == 600

    def test_a_damaged_folder(self, dataset, tmp_path):
        dataset.save_to_disk(str(tmp_path / "saved"))
        (tmp_path / "saved" / "state.json").write_text("{}")
        with pytest.raises(InputError, match="expected a saved dataset"):
            corpus(tmp_path / "saved")

"""Labels and texts of a store: SQL, rows by a condition, and the words around a row."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.streams import Batch, Store, Stream
from jackfield.streams.texts import Text, Texts

WORDS = ["the", " cat", " saw", " Paris", " é", "!"]


class Written(Stream):
    """Sentences of known words; documents begin in one batch and may go on in the next."""

    sites = ("x",)
    rows = 240
    provenance = {"made": "words"}  # noqa: RUF012

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, len(WORDS), (self.rows,), generator=generator)
        self.documents = torch.arange(self.rows) // 12 * 3  # ids need not be dense
        self.positions = torch.arange(self.rows) % 12
        self.x = torch.randn(self.rows, 4, generator=generator)
        self.texts = {d: self._text(d) for d in self.documents.unique().tolist()}

    def _text(self, document):
        said = [WORDS[t] for t in self.tokens[self.documents == document].tolist()]
        starts = torch.tensor([0, *map(len, said[:-1])]).cumsum(0)
        return Text("".join(said), starts, {"label": document % 2})

    def batches(self, start=0):
        for first in range(start, self.rows, 50):
            rows = slice(first, min(first + 50, self.rows))
            ids = self.documents[rows]
            texts = Texts({d: self.texts[d] for d in ids.unique().tolist()}, WORDS)
            columns = {"weight": rows_of(rows).float() / 3, "split": rows_of(rows) % 4 == 0}
            known = self.tokens[rows], ids, self.positions[rows], columns, texts
            yield Batch({"x": self.x[rows]}, *known)


def rows_of(rows):
    return torch.arange(rows.start, rows.stop)


@pytest.fixture(scope="module")
def made():
    return Written()


@pytest.fixture(scope="module", params=["", "memory://asking/"])
def store(request, made, tmp_path_factory):
    place = request.param or f"{tmp_path_factory.mktemp('asking')}/"
    return made.write(place + "acts", commit_rows=70)


def test_rows_by_the_words_of_their_token(store, made):
    found = store.query("select row from rows where token = ' Paris' and position > 3 order by row")
    truth = ((made.tokens == 3) & (made.positions > 3)).nonzero().flatten()
    assert len(truth) > 10
    assert found["row"].to_pylist() == truth.tolist()
    assert torch.equal(store.where("token = ' Paris' and position > 3"), truth)
    assert torch.equal(store["x"][store.where("token_id = 5")], made.x[made.tokens == 5])


def test_user_columns_and_documents(store, made):
    assert torch.equal(store.where("split"), torch.arange(0, 240, 4))
    found = store.query(
        "select row from rows join documents using (document) where label = 1 order by row"
    )
    assert found["row"].to_pylist() == (made.documents % 2 == 1).nonzero().flatten().tolist()
    batch = store.gather(torch.tensor([7, 239, 0]))
    assert torch.equal(batch.columns["weight"], torch.tensor([7.0, 239.0, 0.0]) / 3)
    assert batch.columns["split"].tolist() == [False, False, True]
    assert batch.columns["split"].dtype == torch.bool


def test_the_words_around_a_row(store, made):
    assert len(store.documents) == 20
    for row in (0, 11, 12, 100, 239):
        document, position = int(made.documents[row]), int(made.positions[row])
        said = [WORDS[t] for t in made.tokens[made.documents == document].tolist()]
        excerpt = store.text(row, before=3, after=2)
        assert excerpt.token == WORDS[int(made.tokens[row])]
        assert excerpt.before == "".join(said[max(position - 3, 0) : position])
        assert excerpt.after == "".join(said[position + 1 : position + 3])
        assert str(excerpt) == f"{excerpt.before}«{excerpt.token}»{excerpt.after}"
        assert store.documents[document].columns == {"label": document % 2}


def test_each_document_is_kept_once(store):
    found = store.query("select document, count(*) as times from documents group by document")
    assert found["times"].to_pylist() == [1] * 20


def test_a_question_that_cannot_be_asked(store):
    with pytest.raises(InputError, match=r"query: expected SQL.*tokken.*Tables: rows"):
        store.query("select tokken from rows")
    with pytest.raises(InputError, match=r"row ids from 0 to 239"):
        store.text(240)
    with pytest.raises(InputError, match="one of 20 documents, got document 1"):
        store.documents[1]


def test_a_store_without_texts(tmp_path):
    store = Stream.from_tensor(torch.ones(3, 2)).write(tmp_path / "acts")
    with pytest.raises(InputError, match="a store with texts"):
        store.text(0)
    assert store.where("document > 0").tolist() == [1, 2]


def test_a_resumed_store_has_the_same_texts(made, tmp_path):
    path = tmp_path / "acts"
    made.take(100).write(tmp_path / "other", commit_rows=30)
    with pytest.raises(KeyboardInterrupt):
        Stopping(made).write(path, commit_rows=30)
    assert 0 < Store(path).rows < 240
    store = made.write(path, commit_rows=30, resume=True)
    whole = store.query("select document, text from documents order by document").to_pydict()
    assert whole["document"] == list(made.texts)
    assert whole["text"] == [text.text for text in made.texts.values()]
    assert torch.equal(store["x"][:], made.x)


class Stopping(Written):
    """Presses Ctrl-C in the middle."""

    def __init__(self, inner):
        vars(self).update(vars(inner))

    def batches(self, start=0):
        for number, batch in enumerate(Written.batches(self, start)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

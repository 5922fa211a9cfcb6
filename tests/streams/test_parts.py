"""Parts and spans of corpora of every kind: together the whole, and each does its own work only."""

import gzip
import itertools
import json

import pytest

from jackfield.core.errors import InputError
from jackfield.streams import Corpus, corpus, files
from jackfield.streams.numbers import Numbers

TEXTS = ["" if i % 7 == 3 else f"Text {i}\nof its own" for i in range(40)]


def write_lines(folder):
    half = [[json.dumps({"n": i, "text": t}) for i, t in enumerate(TEXTS)][a::2] for a in (0, 1)]
    (folder / "a.jsonl").write_text("\n\n".join(half[0]) + "\n")
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(half[1]))
    return folder


def write_csv(folder):
    import csv

    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(TEXTS)])
    return folder / "a.csv"


def write_parquet(folder):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name, rows in [("a", slice(0, 25)), ("b", slice(25, None))]:
        table = arrow.table({"n": list(range(40))[rows], "text": TEXTS[rows]})
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=6)
    return folder


def write_texts(folder):
    for number, text in enumerate(TEXTS):
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def write_paragraphs(folder):
    for name in ("a", "b"):
        text = "\n\n".join(t for t in TEXTS if t)
        (folder / f"{name}.md.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def saved(folder):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"n": list(range(40)), "text": TEXTS})
    dataset.save_to_disk(str(folder / "saved"))
    return folder / "saved"


def limited(folder):
    return corpus(TEXTS, limit=20)


SOURCES = {
    "list": lambda folder: TEXTS,
    "function": lambda folder: lambda: iter(TEXTS),
    "limited": limited,
    "jsonl and gz": write_lines,
    "csv": write_csv,
    "parquet": write_parquet,
    "text files": write_texts,
    "paragraphs": write_paragraphs,
    "saved dataset": saved,
    "corpus in a corpus": lambda folder: corpus(corpus(TEXTS), limit=30),
}


@pytest.fixture(params=SOURCES)
def whole(request, tmp_path):
    split = "paragraph" if request.param == "paragraphs" else "file"
    made = SOURCES[request.param](tmp_path)
    return made if isinstance(made, Corpus) else corpus(made, split=split)


def told(source):
    return [(document.id, document.text) for document in source]


def test_parts_are_the_whole_dealt_out(whole):
    expected = told(whole)
    assert len(expected) >= 20
    for world in (1, 2, 3, 100):
        parts = [whole.part(rank, world) for rank in range(world)]
        for rank, part in enumerate(parts):
            assert told(part) == [each for each in expected if each[0] % world == rank]
            assert part.provenance == whole.provenance
            assert part.part_of == (None if world == 1 else (rank, world))
        assert sum(part.count() for part in parts) == whole.count()


def test_spans_are_the_whole_cut_up(whole):
    expected, count = told(whole), whole.count()
    for first, stop in [(0, 7), (7, 26), (26, None), (5, 5), (count, None), (39, 1000)]:
        span = whole.span(first, stop)
        within = range(first, count if stop is None else min(stop, count))
        assert told(span) == [each for each in expected if each[0] in within]
        assert span.count() == len(within)
        assert span.provenance == whole.provenance
        assert span.span_of == (first, stop)
        assert whole.span(first, stop).known() in (None, len(within))


def test_parts_of_spans(whole):
    expected = [each for each in told(whole) if 4 <= each[0] < 19 and each[0] % 3 == 1]
    assert told(whole.span(4, 19).part(1, 3)) == told(whole.part(1, 3).span(4, 19)) == expected
    assert told(whole.span(2, 19).span(4, 30).part(1, 3)) == expected


def test_the_count_is_that_of_a_pass_and_of_what_is_known(whole):
    last = told(whole)[-1][0]
    assert last < whole.count() <= 80
    assert whole.known() in (None, whole.count())


def test_the_share_grows_from_none_to_all(whole):
    shares = [whole.share(count) for count in (1, 10, 20, whole.count())]
    if shares[0] is not None:
        assert shares == sorted(shares)
        assert 0 < shares[0] <= 1
        assert shares[-1] == 1


def test_it_goes_as_json_and_comes_again(whole):
    if whole.name == "function":
        with pytest.raises(InputError, match="another process"):
            whole.recipe()
        return
    for source in (whole, whole.part(1, 3), whole.span(2, 9), whole.span(2).part(0, 2)):
        again = Corpus.from_recipe(json.loads(json.dumps(source.recipe())))
        assert told(again) == told(source)
        assert again.provenance == source.provenance
        assert (again.part_of, again.span_of) == (source.part_of, source.span_of)


def test_lines_of_others_are_not_parsed(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("\n".join(['{"text": "yes"}', "not JSON"] * 10))
    assert [text for _, text in told(corpus(tmp_path / "a.jsonl").part(0, 2))] == ["yes"] * 10
    with pytest.raises(InputError, match="line 2: expected JSON"):
        told(corpus(tmp_path / "a.jsonl").part(1, 2))


def test_row_groups_of_others_are_not_read(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    source, read = corpus(write_parquet(tmp_path)), []
    plain = parquet.ParquetFile.iter_batches

    def counted(self, *args, **options):
        read.append((options["row_groups"], options["columns"]))
        return plain(self, *args, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    assert [number for number, _ in told(source.span(13, 16))] == [13, 14, 15]
    assert read == [([2], ["text"])]
    read.clear()
    assert told(source.span(38))
    assert read == [([2], ["text"])]  # of the second file; nothing of the first


def test_a_list_jumps():
    class Counted(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    asked = []
    assert told(corpus(Counted(TEXTS)).span(29, 34).part(1, 2))[0] == (29, TEXTS[29])
    assert asked == [29, 31, 33]


def test_a_span_ends_where_it_ends():
    def endless():
        return (f"Text {number}" for number in itertools.count())

    assert [number for number, _ in told(corpus(endless).span(3, 6))] == [3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.part(2, 2), "part: expected 0 <= rank < world, got rank 2 of 2"),
        (lambda c: c.part(0, 0), "part: world: expected an int >= 1"),
        (lambda c: c.part(0, 2).part(0, 2), "in parts yet, got part 0 of 2"),
        (lambda c: c.span(5, 3), "0 <= first <= stop"),
        (lambda c: c.span(-1), "0 <= first <= stop, got -1"),
        (lambda c: corpus(c.part(0, 2), limit=3), "Limit first"),
        (lambda c: corpus(c, keep=("a",)), "where the corpus is opened"),
    ],
)
def test_parts_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        change(corpus(TEXTS))


def test_a_part_may_be_empty_but_not_the_whole():
    assert told(corpus(["One"]).part(1, 2)) == []
    with pytest.raises(InputError, match="expected documents"):
        told(corpus([""]))


def test_a_part_prints_itself():
    source = corpus(["One", "Two"])
    assert repr(source.part(1, 3)) == "Corpus(list, part 1 of 3)"
    assert repr(source.span(1)) == "Corpus(list, documents 1 to the last)"


def test_numbers_are_those_of_a_plain_filter():
    for first, stop, rank, world in itertools.product((0, 3, 8), (None, 0, 9), (0, 2), (1, 4)):
        if rank < world:
            numbers = Numbers().span(first, max(stop, first) if stop is not None else None)
            numbers = numbers.part(rank, world)
            expected = [n for n in range(20) if n in numbers]
            assert list(numbers.up_to(20)) == expected
            assert not any(numbers.past(n) for n in expected)


def test_files_are_gone_past_only_once(tmp_path, monkeypatch):
    source, opened = corpus(write_texts(tmp_path)), []
    plain = files.Lines.__iter__

    def counted(self):
        opened.append(self.path.name)
        return plain(self)

    monkeypatch.setattr(files.Lines, "__iter__", counted)
    assert len(told(source.span(5, 7))) == 2
    assert opened == ["05.txt", "06.txt"]

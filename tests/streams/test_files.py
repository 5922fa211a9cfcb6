import gzip
import json

import pytest

from jackfield.core.errors import InputError
from jackfield.streams import corpus, files


def texts(source, **options):
    return [document.text for document in corpus(source, **options)]


@pytest.fixture
def essay(tmp_path):
    path = tmp_path / "essay.txt"
    path.write_bytes("One.\nStill one.\n\n \nTwo – ü.\r\n\r\nThree".encode())
    return path


def test_text_by_file_paragraph_and_line(essay):
    assert texts(essay) == ["One.\nStill one.\n\n \nTwo – ü.\r\n\r\nThree"]
    assert texts(essay, split="paragraph") == ["One.\nStill one.", "Two – ü.", "Three"]
    assert texts(essay, split="line") == ["One.", "Still one.", "Two – ü.", "Three"]


def test_a_byte_order_mark_is_not_text(tmp_path):
    path = tmp_path / "a.md"
    path.write_bytes(b"\xef\xbb\xbf# Title")
    assert texts(path) == ["# Title"]


def test_bytes_that_are_not_utf8_are_placed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("ä line\n".encode() + b"caf\xe9\n")
    with pytest.raises(
        InputError, match=r"a\.txt: expected UTF-8 text, got byte 0xe9 at offset 11"
    ):
        texts(path)


def test_jsonl_with_a_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "One"}\n\n{"id": 2, "text": "Two\\nlines"}\n')
    assert texts(path) == ["One", "Two\nlines"]
    with pytest.raises(InputError, match=r"'txet'.*Did you mean text"):
        texts(path, column="txet")


def test_jsonl_with_chats_and_tokens(tmp_path):
    chat = [{"role": "user", "content": "Hi"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": chat}) + "\n" + json.dumps({"input_ids": [1, 2]}))
    first, second = corpus(path)
    assert first.messages == chat
    assert second.tokens.tolist() == [1, 2]


def test_a_broken_line_is_placed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One"}\n{"text": "Two"\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: expected JSON"):
        texts(path)


def test_csv_with_quotes_lines_and_long_fields(tmp_path):
    path = tmp_path / "a.csv"
    long = "word " * 50_000  # csv's own limit would stop at 128 KiB
    path.write_text(f'id,text\n1,"Two\nlines, ""quoted"""\n2,{long}\n')
    assert texts(path) == ['Two\nlines, "quoted"', long]
    with pytest.raises(InputError, match="one of the columns id, text"):
        texts(path, column="body")


def test_csv_that_ends_in_a_quote(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"never closed')
    with pytest.raises(InputError, match=r"a\.csv, near line 1: expected CSV"):
        texts(path)


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = arrow.table({"n": list(range(600)), "text": [f"Text {i}" for i in range(600)]})
    parquet.write_table(table, path, row_group_size=100)
    assert texts(path) == [f"Text {i}" for i in range(600)]
    assert texts(path, column="text", limit=2) == ["Text 0", "Text 1"]
    with pytest.raises(InputError, match="Did you mean text"):
        texts(path, column="tex")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: expected Parquet"):
        texts(path)


def test_folders_and_globs_are_sorted(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.md", "deep/notes.log"):
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.txt", "b.txt", "deep/c.md"]
    assert texts(str(tmp_path / "*.txt")) == ["a.txt", "b.txt"]
    assert texts(str(tmp_path / "**" / "*.md")) == ["deep/c.md"]
    assert texts([tmp_path / "b.txt", tmp_path / "a.txt"]) == ["b.txt", "a.txt"]


@pytest.mark.parametrize("source", ["nowhere.txt", "*.jsonl", "A sentence, not a path."])
def test_no_such_file(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'docs', or a file.*pass a list"):
        corpus(source)


def test_an_unknown_kind_of_file(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"a file ending in \.txt.*'\.pdf'"):
        corpus(tmp_path / "a.pdf")


def test_fingerprint_sees_the_end_of_a_file(essay):
    before = files.fingerprint(essay)
    assert files.fingerprint(essay) == before
    essay.write_bytes(essay.read_bytes()[:-1] + b"E")
    assert files.fingerprint(essay) != before


def test_bytes_that_are_not_utf8_can_be_replaced(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9\n")
    assert texts(path, errors="replace") == ["caf\ufffd\n"]
    assert corpus(path, errors="replace").provenance != corpus(path).provenance
    with pytest.raises(InputError, match="'strict' or 'replace', got 'ignore'"):
        corpus(path, errors="ignore")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_gzip(name, tmp_path):
    content = {"a.txt": "One", "a.jsonl": '{"text": "One"}\n', "a.csv": "text,n\nOne,1\n"}[name]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert texts(path) == texts(tmp_path) == ["One"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"gz: expected gzip"):
        texts(path)
    path.write_bytes(b"plain")
    with pytest.raises(InputError, match=r"gz: expected gzip"):
        texts(path)


def test_kept_columns_of_files(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": ["One", "Two"], "url": ["a", "b"], "other": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,url\nOne,a\nTwo,b\n")
    (tmp_path / "a.jsonl").write_text('{"text": "One", "url": "a"}\n{"text": "Two", "url": "b"}')
    for kind in ("parquet", "csv", "jsonl"):
        found = corpus(tmp_path / f"a.{kind}", keep=["url"])
        assert [(each.text, each.columns) for each in found] == [
            ("One", {"url": "a"}),
            ("Two", {"url": "b"}),
        ]
        with pytest.raises(InputError, match=rf"a\.{kind}.*'ulr'.*Did you mean url"):
            texts(tmp_path / f"a.{kind}", keep=["ulr"])


def test_parquet_with_strings_that_are_not_utf8(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    bad = arrow.array([b"caf\xe9"]).view(arrow.string())
    parquet.write_table(arrow.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet"):
        texts(tmp_path / "a.parquet")

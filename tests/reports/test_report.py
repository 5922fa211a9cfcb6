import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from jackfield.core.errors import ArtifactError, InputError
from jackfield.reports import Bars, Columns, HeatMap, Lines, Report, Table, Text


@pytest.fixture
def patching() -> Report:
    """What a patching study shows: 30 layers by 15 tokens, a table, a sentence."""
    values = np.random.default_rng(0).normal(size=(30, 15))
    tokens = [f" token{i}" for i in range(15)]
    heat = HeatMap(values, tokens, x_title="token", y_title="layer", value_name="share")
    table = Table(["layer", "best"], [[i, float(row.max())] for i, row in enumerate(values)])
    return Report("Patching", [heat, table, Text("Done.")], summary="It is at layer 15.")


def test_table_is_the_first_table(patching):
    assert [row["layer"] for row in patching.table] == list(range(30))


def test_figure_is_that_of_the_first_drawable_block(patching):
    inner = Report("outer", [Text("x"), Columns([patching])])
    drawn = inner.figure().axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn, patching.blocks[0].values)


def test_text_has_everything_in_order(everything):
    text = everything.text
    assert text.startswith("All & <sundry>\n==============\n\nNothing *left* out.\n\n")
    place = 0
    for block in everything.blocks:
        place = text.index(block.text.splitlines()[0], place) + 1
    assert "\n  Inner\n  =====\n" in text


def test_headings_go_down_a_level_for_each_report_inside(everything, read):
    found = read(everything.html(1))
    assert [h.text for h in found.all("h1")] == ["All & <sundry>"]
    assert [h.text for h in found.all("h2")] == ["Inner"]
    deep = Report("6", [Report("still 6")])
    assert len(read(deep.html(6)).all("h6")) == 2


def test_notebook_html_of_a_usual_report_is_small(patching):
    assert len(patching._repr_html_().encode()) < 50_000


def test_rich_prints_the_report(everything):
    console = Console(width=120, file=io.StringIO())
    console.print(everything)
    printed = console.file.getvalue()
    assert "All & <sundry>" in printed
    assert " <script>" in printed


def test_json_file_round_trip(everything, tmp_path):
    path = everything.save(tmp_path / "new" / "report.json")
    again = Report.load(path)
    assert again.to_json() == everything.to_json()
    assert again.text == everything.text
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity


def test_html_file_is_whole(everything, tmp_path, read):
    html = everything.save(tmp_path / "report.html").read_text(encoding="utf-8")
    found = read(html)
    assert html.startswith("<!doctype html>")
    assert found.all("title")[0].text == "All & <sundry>"
    assert len(found.all("h1")) == 1


def test_csv_file_holds_the_first_table(patching, tmp_path):
    with patching.save(tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["layer", "best"]
    assert [float(row[1]) for row in rows[1:]] == [row["best"] for row in patching.table]


def test_csv_keeps_any_string(tmp_path):
    cells = ['a,"b"', "two\nlines", "猫", "", " padded "]
    path = Report("t", [Table(["cell", "n"], [[c, 1] for c in cells])]).save(tmp_path / "t.csv")
    with path.open(newline="", encoding="utf-8") as file:
        assert [row["cell"] for row in csv.DictReader(file)] == cells


def test_csv_survives_half_an_emoji(tmp_path):
    path = Report("t", [Table(["cell"], [["\ud83d"]])]).save(tmp_path / "t.csv")
    assert path.read_text(encoding="utf-8") == "cell\n\\ud83d\n"


def test_png_file(patching, tmp_path):
    path = patching.save(tmp_path / "report.PNG")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", r"a name that ends in \.html, \.png, \.csv, \.json, got '\.pdf'"),
        ("report", "got none"),
        ("report.htm", "Did you mean .html"),
    ],
)
def test_other_suffixes_are_refused(patching, tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        patching.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.png", "a block that can be drawn .* got text"), ("x.csv", "a block with rows")],
)
def test_what_has_nothing_to_save_writes_nothing(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        Report("words", [Text("only")]).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(patching, tmp_path, monkeypatch):
    path = patching.save(tmp_path / "report.json")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Report("other").save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_empty_report(read):
    report = Report("Nothing")
    assert report.text == "Nothing\n======="
    assert report.table == []
    read(report._repr_html_())
    with pytest.raises(InputError, match="no blocks"):
        report.figure()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "expected a report saved as .json"),
        ("{}", "KeyError: 'format'"),
        ('{"format": 99, "kind": "report", "title": "x"}', "format 99, newer"),
        ('{"format": 1, "kind": "text", "body": "x"}', "expected a report, got text"),
        ('{"format": 1, "kind": "report", "title": "x", "blocks": [3]}', "report"),
        ('{"format": 1, "kind": "report", "title": "x", "blocks": 3}', "report"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=message):
        Report.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="FileNotFoundError"):
        Report.load(tmp_path / "none.json")


def test_reports_are_values():
    report = Report("r", [Bars(["a"], [1]), Lines([0], {"a": [math.pi]})])
    assert report == Report.from_json(report.to_json())

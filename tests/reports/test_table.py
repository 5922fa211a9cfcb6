import csv
import math

import pytest

from jackfield.core.errors import InputError
from jackfield.reports import Report, Table


def test_rows_by_column():
    table = Table(["layer", "KL"], [[3, 0.5], {"KL": 0.25, "layer": 12}])
    assert table.table == [{"layer": 3, "KL": 0.5}, {"layer": 12, "KL": 0.25}]


def test_html_is_a_real_table(read):
    found = read(Table(["token", "KL"], [[" a", 0.5], ["b", None]], formats={"KL": ".2f"}).html(2))
    assert [head.text for head in found.all("th")] == ["token", "KL"]
    assert all(head["scope"] == "col" for head in found.all("th"))
    assert [cell.text for cell in found.all("td")] == [" a", "0.50", "b", "–"]
    assert [cell.classes for cell in found.all("td")][:2] == [[], ["jf-num"]]


def test_text_is_aligned():
    lines = Table(["name", "n"], [["猫", 5], ["a\nb", 123]]).text.splitlines()
    assert lines == ["name    n", "----  ---", "猫      5", "a⏎b   123"]


def test_only_so_many_rows_are_shown_but_all_are_saved(tmp_path, read):
    table = Table(["i"], [[i] for i in range(75)], limit=20)
    found = read(table.html(2))
    assert len(found.all("td")) == 20
    assert "55 more rows" in found.text
    assert "55 more rows" in table.text
    with Report("t", [table]).save(tmp_path / "t.csv").open(newline="") as file:
        assert [row["i"] for row in csv.DictReader(file)] == [str(i) for i in range(75)]


def test_empty_table():
    assert "no rows" in Table(["a", "b"], []).html(2)
    assert Table(["a", "b"], []).text.splitlines()[0] == "a  b"
    assert Table([], []).text == "no rows"


def test_numpy_and_tensor_cells_become_numbers():
    import numpy as np
    import torch

    row = Table(["a", "b", "c"], [[np.float32(0.5), torch.tensor(2), np.int64(3)]]).rows[0]
    assert row == (0.5, 2, 3)
    assert [type(cell) for cell in row] == [float, int, int]


def test_missing_and_not_a_number_differ():
    table = Table(["a"], [[None], [math.nan], ["NaN"]])
    again = Report.from_json(Report("t", [table]).to_json()).blocks[0].rows
    assert again[0] == (None,)
    assert isinstance(again[1][0], float)
    assert again[2] == ("NaN",)


@pytest.mark.parametrize(
    ("columns", "rows", "formats", "message"),
    [
        (["a", "b"], [[1, 2], [3]], {}, r"Table, row 1: expected 2 cells \(a, b\), got 1"),
        (["a"], [{"b": 1}], {}, "row 0: expected the columns a, got b"),
        (["KL"], [[1]], {"Kl": ".2f"}, "Did you mean KL"),
        (["KL"], [[1.5]], {"KL": ".2q"}, r"formats\['KL'\]: expected a format"),
    ],
)
def test_errors(columns, rows, formats, message):
    with pytest.raises(InputError, match=message):
        Table(columns, rows, formats=formats)

import pytest

from jackfield.core.errors import InputError
from jackfield.reports import Columns, HeatMap, Report, Table, Text
from jackfield.reports.layout import first_table, walk


def test_columns_hold_each_block(read):
    found = read(Columns([Text("left"), Text("right")]).html(2))
    assert [div.text for div in found.all("div") if not div.classes] == ["left", "right"]


def test_walk_goes_into_everything():
    inner = Text("deep")
    outer = Report("a", [Columns([Report("b", [inner])]), Text("x")])
    assert [block.kind for block in walk([outer])] == [
        *("report", "columns", "report", "text", "text")
    ]


def test_first_table_prefers_a_table_to_other_data():
    heat, table = HeatMap([[1.0]]), Table(["n"], [[7]])
    assert first_table([heat, Report("r", [table])]) == [{"n": 7}]
    assert first_table([Text("x"), heat]) == heat.table
    assert first_table([Text("x")]) == []


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["words"], r"block 0: expected a Block .* got a str. Wrap a string in Text"),
        ([Text("x"), 3], "block 1: .* got a int"),
        (Text("x"), "expected a list of blocks, got one text"),
    ],
    ids=["string", "number", "lone"],
)
@pytest.mark.parametrize("outer", [Columns, lambda blocks: Report("r", blocks)], ids=["c", "r"])
def test_only_blocks_are_taken(outer, blocks, message):
    with pytest.raises(InputError, match=message):
        outer(blocks)

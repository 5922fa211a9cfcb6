import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.reports import HeatMap, Report, Tokens
from jackfield.reports.glyphs import printable

ANYTHING = st.text(st.characters(), max_size=12)
NAN = math.nan


def test_highlights_grow_with_the_value(read):
    spans = read(Tokens(["a", " b", " c"], [0.0, 1.0, 2.0]).html(2)).all("span")
    assert [(span.text, span["class"]) for span in spans] == [(" b", "jq10"), (" c", "jq20")]
    assert spans[0]["title"] == "·b  activation 1"


def test_all_texts_share_one_scale(read):
    spans = read(Tokens([["a"], ["b"]], [[1.0], [4.0]]).html(2)).all("span")
    assert [span["class"] for span in spans] == ["jq5", "jq20"]


def test_diverging_values(read):
    spans = read(Tokens(["a", "b"], [-2.0, 1.0], scale="diverging").html(2)).all("span")
    assert [span["class"] for span in spans] == ["jd0", "jd30"]


def test_spaces_stay_and_newlines_are_shown(read):
    cell = read(Tokens(["a", " b", "\n", "c"], [1, 1, 0, 0]).html(2)).all("td")[0]
    assert cell.text == "a b⏎c"


def test_labels_are_the_peaks_unless_given(read):
    tokens, values = [["a", "b"], ["c"]], [[1.0, -3.0], [NAN]]
    heads = read(Tokens(tokens, values, scale="diverging").html(2)).all("th")
    assert [head.text for head in heads] == ["-3", ""]
    named = read(Tokens(tokens, values, ["<x>", "y"]).html(2)).all("th")
    assert [head.text for head in named] == ["<x>", "y"]


def test_tokens_without_a_value_are_grey(read):
    (span,) = read(Tokens(["a"], [NAN]).html(2)).all("span")
    assert (span["class"], span["title"]) == ("jf-nan", "a  activation no value")


@given(st.lists(st.tuples(ANYTHING, st.floats()), min_size=1, max_size=5))
def test_no_token_can_break_the_page(read_once, pairs):
    tokens, values = zip(*pairs, strict=True)
    block = Tokens(tokens, values)
    html = block.html(2)
    html.encode("utf-8")
    found = read_once(html)
    assert {element.tag for element in found.elements} <= {
        *("figure", "table", "tr", "th", "td", "span")
    }
    assert found.all("td")[0].text == "".join(printable(token) for token in tokens)
    assert all(printable(token) in block.text for token in tokens)
    again = Report.from_json(Report("r", [block]).to_json()).blocks[0]
    assert again.tokens == block.tokens


@given(st.lists(ANYTHING, min_size=1, max_size=4))
def test_no_label_can_break_a_heat_map(read_once, labels):
    html = HeatMap([[1.0] * len(labels)], labels, [labels[0]], labels[-1], labels[0]).html(2)
    found = read_once(html)
    assert len(found.all("td")) == len(labels) + 1
    assert not found.all("script")


def test_rows_of_the_table():
    assert Tokens([["a"], ["b", "c"]], [[1], [2, 3]]).table[-1] == {
        "text": 1,
        "position": 1,
        "token": "c",
        "activation": 3.0,
    }


def test_nothing_to_show():
    assert "no texts" in Tokens([], []).html(2)
    assert Tokens([], []).text == "no texts"
    assert Tokens([[]], [[]]).text.strip() == ""


@pytest.mark.parametrize(
    ("tokens", "values", "labels", "message"),
    [
        (["a", "b"], [1.0], [], "text 0, row 0: expected 2 values"),
        ([["a"], ["b"]], [[1.0]], [], "expected values of 2 texts, got of 1"),
        ([["a"]], [[1.0]], ["x", "y"], "labels"),
    ],
    ids=["values", "texts", "labels"],
)
def test_errors(tokens, values, labels, message):
    with pytest.raises(InputError, match=message):
        Tokens(tokens, values, labels)

import math

import pytest

from jackfield.core.errors import InputError
from jackfield.reports import Bars


def share(text: str | None) -> float:
    return float((text or "").rstrip("%"))


def test_bars_start_at_zero_and_go_to_their_value(read):
    rects = read(Bars(["a", "b"], [3.0, -1.0]).html(2)).all("rect")
    assert [(share(r["x"]), share(r["width"])) for r in rects] == [(25, 75), (0, 25)]
    assert ["jf-s0" in rect.classes for rect in rects] == [False, True]


def test_real_table(read):
    found = read(Bars([" <b>"], [0.5], label_title="token", value_title="logit").html(2))
    assert [head.text for head in found.all("th")] == ["token", "logit", "·<b>"]
    assert found.all("td")[-1].text == "0.5"


def test_intervals(read):
    found = read(Bars(["a"], [2.0], [(1.0, 4.0)]).html(2))
    (span,) = found.all("line")
    assert (share(span["x1"]), share(span["x2"])) == (25, 100)
    assert "2 (1 to 4)" in found.text
    assert Bars(["a"], [2.0], [(1.0, 4.0)]).table == [
        {"name": "a", "value": 2.0, "low": 1.0, "high": 4.0}
    ]


def test_missing_value_has_no_bar(read):
    found = read(Bars(["a", "b"], [math.nan, 1.0]).html(2))
    assert len(found.all("rect")) == 1
    assert "NaN" in found.text


def test_many_bars_are_cut_with_a_count(read):
    bars = Bars(range(50), range(50), limit=30)
    found = read(bars.html(2))
    assert len(found.all("svg")) == 30
    assert "20 more" in found.text
    assert "20 more" in bars.text
    assert len(bars.table) == 50


def test_long_labels_are_cut_and_told_in_full(read):
    head = read(Bars(["x" * 99], [1]).html(2)).all("th")[-1]
    assert len(head.text) < 30
    assert head["title"] == "x" * 99


@pytest.mark.parametrize("values", [[], [0.0], [math.nan], [-2.0], [math.inf]])
def test_unusual_values(values, read):
    bars = Bars(range(len(values)), values)
    read(bars.html(2))
    assert bars.text
    if all(map(math.isfinite, values)):
        bars.figure().canvas.draw()


def test_figure_draws_the_values():
    (axes,) = Bars([" Mary", "$x$"], [2.0, -1.0], [(1, 3), (-2, 0)]).figure().axes
    assert [patch.get_width() for patch in axes.patches] == [2, -1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["·Mary", "$x$"]
    assert [tuple(line.get_xdata()) for line in axes.lines] == [(1, 3), (-2, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [1, 2]), "labels: expected 2"),
        ((["a"], [1], [(0, 1), (0, 1)]), "intervals: expected 1"),
        ((["a"], [1], [(0, 1, 2)]), r"intervals, 0: expected \(low, high\)"),
    ],
    ids=["labels", "intervals", "triple"],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        Bars(*arguments)

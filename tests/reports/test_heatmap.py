import math
import re

import numpy as np
import pytest

from jackfield.core.errors import InputError
from jackfield.reports import HeatMap
from jackfield.reports.palette import color

NAN = math.nan


@pytest.fixture
def heat() -> HeatMap:
    """4 layers by 3 tokens, one value missing; the largest is at layer 2, token " Mary"."""
    values = [[0.0, -0.5, 0.1], [NAN, 0.2, 0.3], [0.1, 1.0, -0.1], [0.5, 0.0, 0.0]]
    return HeatMap(values, ["When", " Mary", "<b>"], range(4), "token", "layer", value_name="share")


def test_cells_have_the_colours_of_their_values(heat, read):
    cells = read(heat.html(2)).all("td")[1:]  # the first names the rows' axis
    level = {v: f"jd{round((v + 1) * 20)}" for v in (0.0, -0.5, 0.1, 0.2, 0.3, 1.0, -0.1, 0.5)}
    expected = [level.get(v, "jf-nan") for row in heat.values for v in row]
    assert [cell["class"] for cell in cells] == expected


def test_cells_tell_layer_token_and_value(heat, read):
    titles = [cell["title"] for cell in read(heat.html(2)).all("td")[1:]]
    assert titles[7] == "layer 2, token ·Mary: 1"
    assert titles[3] == "layer 1, token When: no value"
    assert titles[2] == "layer 0, token <b>: 0.1"


def test_real_table_with_heads(heat, read):
    found = read(heat.html(2))
    assert [head.text for head in found.all("th") if head["scope"] == "row"] == list("0123")
    assert [head.text for head in found.all("th") if head["scope"] == "col"][1] == "·Mary"
    label = found.all("table")[0]["aria-label"]
    assert label.startswith("Largest share: 1 at layer 2, token ·Mary; ")


def test_legend_names_the_scale_and_the_missing_values(heat, read):
    found = read(heat.html(2))
    assert [mark.text for mark in found.all("b")] == ["-1", "0", "1"]
    assert "no value" in found.text
    assert "no value" not in read(HeatMap([[1.0]]).html(2)).text


def test_small_maps_show_their_numbers(read):
    small = read(HeatMap([[1.5, NAN]]).html(2))
    assert [cell.text for cell in small.all("td")[1:]] == ["1.5", ""]
    large = read(HeatMap(np.ones((20, 20))).html(2))
    assert {cell.text for cell in large.all("td")[1:]} == {""}


def test_columns_of_short_labels_are_made_equally_wide(read):
    heads = read(HeatMap([[1, 2]], [" a", " longer"]).html(2)).all("th")
    assert [head["data-w"] for head in heads[:2]] == ["·longer"] * 2
    long = HeatMap([range(20)], [f"tokenization{i}" for i in range(20)])
    assert "jf-upright" in read(long.html(2)).all("table")[0].classes


def test_picture_of_many_cells_shows_the_same_colours(read):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 80)).round(1)
    values[rng.random(values.shape) < 0.1] = NAN
    heat = HeatMap(values)
    found = read(heat.html(2))
    assert not found.all("td")
    drawn = np.full(values.shape, "", dtype=object)
    for path in found.all("path"):
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path["d"]):
            run = np.s_[int(y), int(x) : int(x) + int(length)]
            assert (drawn[run] == "").all(), "two colours on one cell"
            drawn[run] = path["class"]
    top, scale = np.nanmax(np.abs(values)), heat.colours
    for value, css in zip(values.flat, drawn.flat, strict=True):
        assert css == ("jf-none" if math.isnan(value) else scale.css(value))
        if not math.isnan(value):
            assert abs(int(css[2:]) - (value / top + 1) * 20) <= 0.5 + 1e-9


def test_figure_draws_the_values(heat):
    axes, bar = heat.figure().axes
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn, np.array(heat.values))
    assert axes.images[0].get_clim() == (-1, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["When", "·Mary", "<b>"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("token", "layer")
    assert bar.get_ylabel() == "share"


def test_figure_has_the_colours_of_the_page(heat):
    from matplotlib.colors import to_hex

    image = heat.figure().axes[0].images[0]
    assert to_hex(image.to_rgba([1.0])[0]) == color("diverging", 1.0)


def test_text_says_tenths_and_where_the_largest_are(heat):
    lines = heat.text.splitlines()
    assert lines[0].split() == ["layer", "↓", "When", "·Mary", "<b>"]
    assert lines[1].split() == ["0", "·", "-5", "1"]
    assert lines[2].split() == ["1", "×", "2", "3"]
    assert lines[3].split() == ["2", "1", "10", "-1"]
    assert lines[-1].startswith("Largest share: 1 at layer 2, token ·Mary;")


def test_wide_maps_are_text_without_a_grid():
    assert HeatMap(np.ones((3, 60))).text.count("\n") == 0


def test_rows_of_the_table(heat):
    assert len(heat.table) == 12
    assert heat.table[7] == {"layer": "2", "token": " Mary", "share": 1.0}


def test_labels_count_from_zero_when_not_given():
    heat = HeatMap([[1, 2, 3]])
    assert heat.x_labels == ("0", "1", "2")


@pytest.mark.parametrize("values", [[], [[]], [[], []]])
def test_nothing_to_show(values):
    heat = HeatMap(values)
    assert "no values" in heat.html(2)
    assert "no values" in heat.text
    assert heat.table == []
    heat.figure().canvas.draw()


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, 0.0, 1e300])
def test_a_lone_unusual_value(value, read):
    heat = HeatMap([[value]])
    read(heat.html(2))
    assert heat.text
    heat.figure().canvas.draw()


def test_sequential_scale_spans_the_data():
    heat = HeatMap([[2.0, 6.0]], scale="sequential")
    assert (heat.colours.low, heat.colours.high) == (2, 6)
    assert [heat.colours.css(v) for v in (2, 4, 6)] == ["jq0", "jq10", "jq20"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [[1, 2], [3]]}, "row 1: expected 2 values, got 1"),
        ({"values": [[1, 2]], "x_labels": ["a"]}, "x_labels: expected 2 labels"),
        ({"values": [[1, 2]], "y_labels": ["a", "b"]}, "y_labels: expected 1 labels"),
        ({"values": [[1]], "scale": "rainbow"}, "'diverging', 'sequential', got 'rainbow'"),
        ({"values": [[1]], "limits": (1, 1)}, "limits: expected two finite numbers"),
        ({"values": [1, 2]}, "row 0: expected a list of numbers"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        HeatMap(**arguments)

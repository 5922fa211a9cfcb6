import math
import re

import numpy as np
import pytest

from jackfield.core.errors import InputError
from jackfield.reports import Lines
from jackfield.reports.axes import HEIGHT

NAN = math.nan


def points(path: str) -> np.ndarray:
    """[point, 2] of a path "Mx yLx y…"."""
    return np.array([[float(n) for n in p.split()] for p in re.split("[ML]", path)[1:]])


def curves(found) -> list[np.ndarray]:
    return [
        points(path["d"])
        for path in found.all("path", "jf-line")
        if "h" not in path["d"]  # the legend's
    ]


def test_curve_goes_through_its_points(read):
    lines = Lines([0, 10, 40], {"FVU": [0.0, 1.0, 0.5]})
    (curve,) = curves(read(lines.html(2)))
    np.testing.assert_allclose(curve[:, 0], [0, 250, 1000])
    np.testing.assert_allclose(curve[:, 1], [HEIGHT, 0, HEIGHT / 2])


def test_missing_values_make_gaps(read):
    lines = Lines(range(5), {"a": [0, 1, NAN, 1, 0]})
    assert [len(curve) for curve in curves(read(lines.html(2)))] == [2, 2]


def test_lone_points_are_seen(read):
    paths = read(Lines(range(3), {"a": [NAN, 1, NAN]}).html(2)).all("path", "jf-line")
    assert paths[0]["d"].endswith("h2")


def test_logarithmic_axes(read):
    lines = Lines([1, 10, 100], {"loss": [100, 10, 0]}, log_x=True, log_y=True)
    (curve,) = curves(read(lines.html(2)))
    np.testing.assert_allclose(curve, [[0, 0], [500, HEIGHT]])


def test_points_tell_their_value(read):
    titles = [title.text for title in read(Lines([5], {"KL": [0.25]}).html(2)).all("title")]
    assert titles == ["KL 0.25 at 5"]


def test_band_surrounds_its_curve(read):
    lines = Lines([0, 1], {"a": [1, 1]}, {"a": ([0, 0], [2, 2])})
    (band,) = read(lines.html(2)).all("path", "jf-band")
    corners = points(band["d"].rstrip("z"))
    assert sorted(map(tuple, corners)) == [(0, 0), (0, HEIGHT), (1000, 0), (1000, HEIGHT)]


def test_long_curves_stay_small_and_keep_their_spikes(read):
    ys = np.zeros(50_000)
    ys[31_234] = 7
    html = Lines(range(50_000), {"a": ys}).html(2)
    assert len(html) < 30_000
    assert any(curve[:, 1].min() < HEIGHT * 0.2 for curve in curves(read(html)))


def test_legend_gives_the_last_value(read):
    found = read(Lines([0, 1, 2], {"a<": [3, 2, NAN], "b": [1, 1, 5]}).html(2))
    assert [mark.text for mark in found.all("b")] == ["2", "5"]
    assert "a<" in found.text


def test_figure_draws_the_series():
    lines = Lines([1, 2, 3], {"a": [1, NAN, 3], "b": [3, 2, 1]}, {"b": ([2, 1, 0], [4, 3, 2])})
    (axes,) = lines.figure().axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(drawn["a"], [1, NAN, 3])
    np.testing.assert_array_equal(drawn["b"], [3, 2, 1])
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_table_holds_series_and_bands():
    lines = Lines([0], {"a": [1]}, {"a": ([0], [2])}, x_title="step")
    assert lines.table == [{"step": 0.0, "a": 1.0, "a (low)": 0.0, "a (high)": 2.0}]


def test_text_shows_the_course():
    assert Lines([0, 1], {"a": [2, 1]}, x_title="step").text == (
        "a  █▁  2 to 1 (least 1)\n(over step)"
    )


@pytest.mark.parametrize("series", [{}, {"a": []}])
def test_nothing_to_show(series, read):
    lines = Lines([], series)
    read(lines.html(2))
    assert lines.text
    lines.figure().canvas.draw()


def test_all_missing(read):
    lines = Lines([0, 1], {"a": [NAN, NAN]}, log_y=True)
    assert not curves(read(lines.html(2)))
    assert "no values" in lines.text


@pytest.mark.parametrize(
    ("series", "bands", "message"),
    [
        ({"a": [1]}, {}, "Lines, a: expected 2 values"),
        ({"a": [1, 2]}, {"b": ([1, 1], [2, 2])}, "bands: expected bands of the series a, got b"),
        ({"a": [1, 2]}, {"a": ([1], [2])}, "band of a: expected 2 values"),
    ],
    ids=["short", "stranger", "band"],
)
def test_errors(series, bands, message):
    with pytest.raises(InputError, match=message):
        Lines([0, 1], series, bands)

import numpy as np
import pytest

from jackfield.core.errors import InputError
from jackfield.reports import Scatter


def test_points_and_names_are_where_the_numbers_say(read):
    page = read(Scatter([0, 5, 10], [0, 1, 4], ["a", "b", "c"]).html(2))
    dots = page.all("circle", "jf-dot")
    assert [dot["cx"] for dot in dots] == ["0%", "50%", "100%"]
    tops = [float(dot["cy"]) for dot in dots]
    assert tops[0] == 320
    assert tops[2] == 0
    assert tops[1] == pytest.approx(240)


def test_the_curve_keeps_its_order(read):
    circle = np.linspace(0, 2 * np.pi, 9)
    scatter = Scatter([], [], [], np.cos(circle), np.sin(circle))
    (path,) = read(scatter.html(2)).all("path", "jf-line")
    lefts = [float(part.split()[0]) for part in path["d"][1:].split("L")]
    np.testing.assert_allclose(lefts, 500 + 500 * np.cos(circle), atol=0.1)


def test_names_at_the_right_edge_are_written_to_the_left(read):
    html = Scatter([0, 1], [0, 1], ["left", "right"]).html(2)
    assert html.index("text-anchor=start>left") > 0
    assert html.index("text-anchor=end>right") > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([0, 1], [0], ["a", "b"]), "as many labels"),
        (([0], [0], ["a"], [1, 2], [1]), "steps of the curve"),
        (([float("nan")], [0], ["a"]), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Scatter(*given)


def test_text_says_how_many_more():
    text = Scatter(range(14), range(14), [f"p{i}" for i in range(14)]).text
    assert "… and 2 more" in text
    assert "p12" not in text

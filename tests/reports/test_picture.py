import base64
import sys

import numpy as np
import pytest

from jackfield.core.errors import InputError, MissingExtraError
from jackfield.reports import Bars, Figure, Image, Report
from jackfield.reports.picture import png

PNG = b"\x89PNG\r\n\x1a\n"


def ramp(axes) -> None:
    axes.imshow([[0, 1], [2, 3]])


def test_nothing_is_drawn_until_somebody_looks():
    calls = []
    figure = Figure(calls.append, caption="later")
    assert "later" in figure.text
    assert figure.table == []
    assert not calls
    figure.figure()
    assert len(calls) == 1


def test_figure_holds_what_the_function_drew():
    (axes,) = Figure(ramp).figure().axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 1], [2, 3]])


def test_html_holds_the_picture(read):
    (image,) = read(Figure(ramp, caption='a "ramp"').html(2)).all("img")
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(PNG)
    assert image["alt"] == 'a "ramp"'


def test_json_of_a_figure_is_its_picture():
    report = Report("r", [Figure(ramp, caption="c", alt="a")])
    (image,) = Report.from_json(report.to_json()).blocks
    assert isinstance(image, Image)
    assert (image.caption, image.alt) == ("c", "a")
    (axes,) = image.figure().axes
    assert axes.images[0].get_array().ndim == 3


def test_without_matplotlib_the_page_says_how_to_get_it(monkeypatch, read):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = read(Figure(ramp, caption="c").html(2))
    assert "pip install 'jackfield[plots]'" in found.text
    with pytest.raises(MissingExtraError, match=r"jackfield\[plots\]"):
        Figure(ramp).figure()


def test_letters_that_the_font_lacks_do_not_stop_it():
    assert png(Bars(["猫", "\U0001f600", "$\\frac$"], [1, 2, 3])).startswith(PNG)


@pytest.mark.parametrize("data", ["", "abc", '"><script>', base64.b64encode(b"GIF89a").decode()])
def test_only_png_is_taken(data):
    with pytest.raises(InputError, match="expected a PNG file in base64"):
        Image(data)


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    Figure(ramp).figure()
    assert dict(matplotlib.rcParams) == before

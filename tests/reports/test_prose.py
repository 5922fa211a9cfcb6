import pytest

from jackfield.reports import Text
from jackfield.reports.prose import inline


def test_paragraphs_and_lists():
    html = Text("one\ntwo\n\n- a\n- b").html(2)
    assert html == "<p>one two</p><ul><li>a</li><li>b</li></ul>"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**b** and `c`", "<strong>b</strong> and <code>c</code>"),
        ("`**not bold**`", "<code>**not bold**</code>"),
        ("**<img src=x>**", "<strong>&lt;img src=x&gt;</strong>"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("`<script>`", "<code>&lt;script&gt;</code>"),
    ],
)
def test_inline(text, html):
    assert inline(text) == html


def test_empty_text():
    assert Text("").html(2) == ""
    assert Text(" \n ").text == ""

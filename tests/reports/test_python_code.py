import html
import re

import pytest

from jackfield.reports.python_code import highlighted

SOURCES = [
    "import jackfield as jf\n\nmodel = jf.load('smollm2')  # <b>\n",
    "def f(x: str = '<script>') -> None:\n    return 3.5 if x else None\n",
    'text = """two\nlines é 猫""" + "\\n"\n',
    "x = [1,\n     2]",
    "",
]


@pytest.mark.parametrize("source", SOURCES)
def test_only_spans_are_added(source):
    shown = highlighted(source)
    assert html.unescape(re.sub(r"<span class=\w\w>|</span>", "", shown)) == source.strip("\n")
    assert "<script>" not in shown


def test_parts_are_told_apart():
    assert highlighted("return 'a'  # why") == (
        "<span class=kw>return</span> <span class=st>&#x27;a&#x27;</span>"
        "  <span class=co># why</span>"
    )


def test_what_is_not_python_is_shown_plainly():
    assert highlighted("$ make <demo> '") == "$ make &lt;demo&gt; &#x27;"

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.reports.glyphs import (
    escape,
    fit,
    number,
    printable,
    short,
    sparkline,
    visible,
    width,
)

ANYTHING = st.text(st.characters(), max_size=30)  # surrogates and controls too


@given(ANYTHING)
def test_escaped_text_has_no_markup_and_can_be_encoded(text):
    shown = escape(text)
    assert not set(shown) & set("<>\"'")
    shown.encode("utf-8")
    assert html.unescape(shown) == printable(text)


@given(ANYTHING)
def test_printable_leaves_no_control_and_no_bidi_mark(text):
    allowed = "\u200c\u200d"  # joiners shape letters and emoji
    for char in printable(text):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in allowed


@given(st.text("abc \n", min_size=1, max_size=8))
def test_visible_labels_never_begin_or_end_with_blanks(token):
    assert visible(token) == visible(token).strip()
    assert visible(token)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Mary", "·Mary"),
        ("  ", "··"),
        ("", "∅"),
        ("a b", "a b"),
        ("\t\r\n", "⇥␍⏎"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\ud800", "⟨U+D800⟩"),
        ("👩‍🚀", "👩‍🚀"),
    ],
)
def test_visible(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [
        (0.123456, "", "0.1235"),
        (123456.7, "", "123457"),
        (1e-9, "", "1e-09"),
        (float("nan"), ".2f", "NaN"),
        (float("-inf"), "", "-inf"),
        (12345, ",", "12,345"),
        (True, ".2f", "True"),
        ("text", ".2f", "text"),
    ],
)
def test_number(value, spec, shown):
    assert number(value, spec) == shown


def test_short_numbers_move_to_the_next_unit():
    assert [short(value) for value in (999.4, 999.6, 999_600, 2.5e9)] == [
        "999",
        "1k",
        "1M",
        "2.5G",
    ]


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.integers(1, 20))
def test_fit_gives_the_width_it_is_asked_for(text, columns):
    shown = printable(text)
    got = width(fit(shown, columns))
    assert got == columns or (got < columns and width(shown) > columns)


def test_wide_letters_count_twice():
    assert width("猫") == 2
    assert fit("猫猫猫", 4) == "猫… "


def test_sparkline_means_over_shares_and_leaves_gaps():
    assert sparkline([0, 0, 10, 10], columns=2) == "▁█"
    assert sparkline([0, float("nan"), 10]) == "▁ █"
    assert sparkline([float("nan")]) == ""
    assert sparkline([5, 5]) == "▁▁"

import math

import pytest

from jackfield.core.errors import InputError
from jackfield.reports import SideBySide

NAN = math.nan


@pytest.fixture
def pair() -> SideBySide:
    texts = [["I am fine, thanks.", "I am calm.", "<b>\ncalm"], ["No.", "No.", ""]]
    measures = {"KL (nats)": [[NAN, 0.25, 2.5], [NAN, 0.0, NAN]]}
    return SideBySide(["plain", "x 2", "x 8"], texts, ["How are you?", "So?"], measures)


def test_what_is_shared_with_the_first_column_is_dimmed(pair, read):
    same = [span.text for span in read(pair.html(2)).all("span", "jf-same")]
    assert same == ["I am ", "No."]


def test_texts_prompts_and_measures_are_shown(pair, read):
    found = read(pair.html(2))
    said = [p.text for p in found.all("p", "jf-said")]
    assert said == ["I am fine, thanks.", "I am calm.", "<b>\ncalm", "No.", "No.", ""]
    assert [p.text for p in found.all("p", "jf-prompt")] == ["How are you?", "So?"]
    assert [p.text for p in found.all("p", "jf-notes")] == [
        *("KL (nats) 0.25", "KL (nats) 2.5", "KL (nats) 0")
    ]


def test_text(pair):
    lines = pair.text.splitlines()
    assert lines[:5] == [
        "> How are you?",
        "  [plain]",
        "    I am fine, thanks.",
        "  [x 2, KL (nats) 0.25]",
        "    I am calm.",
    ]


def test_rows_of_the_table(pair):
    assert pair.table[1] == {
        "prompt": "How are you?",
        "column": "x 2",
        "text": "I am calm.",
        "KL (nats)": 0.25,
    }
    assert len(pair.table) == 6


def test_nothing_to_show():
    assert "no texts" in SideBySide(["a"], []).html(2)
    assert SideBySide(["a"], []).text == "no texts"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [["x"]]}, "row 0: expected 2 texts"),
        ({"texts": [["x", "y"]], "prompts": ["a", "b"]}, "prompts: expected 1"),
        ({"texts": [["x", "y"]], "measures": {"KL": [[1]]}}, "'KL', row 0: expected 2 values"),
        ({"texts": [["x", "y"]], "measures": {"KL": []}}, "'KL': expected 1 rows, got 0"),
    ],
    ids=["texts", "prompts", "columns", "rows"],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        SideBySide(["a", "b"], **arguments)

import itertools
import re
import sys

import pytest

from jackfield.streams import corpus, docstrings

PROSE = "It is the first of the things that a reader of this page is to see, and it is long. " * 3


@pytest.fixture(scope="module")
def texts():
    before = set(sys.modules)
    found = [document.text for document in itertools.islice(corpus("docs"), 60)]
    assert set(sys.modules) == before, "sources are read, never imported"
    return found


def test_the_first_documents_are_varied_english(texts):
    assert len(set(texts)) == 60
    assert all(len(text) >= 200 for text in texts)
    words = re.findall(r"[a-z]+", " ".join(texts).lower())
    assert words.count("the") / len(words) > 0.04  # 0.06 in English
    assert not any(">>>" in text for text in texts)


def test_the_order_is_the_same_each_time(texts):
    assert list(itertools.islice(docstrings.docstrings(), 30)) == texts[:30]


def test_packages_take_turns(tmp_path, monkeypatch):
    for package, count in (("one", 5), ("two", 2)):
        (tmp_path / package / "tests").mkdir(parents=True)
        for number in range(count):
            text = f'"""{package} {number}. {PROSE}"""\n'
            (tmp_path / package / f"m{number}.py").write_text(text)
        (tmp_path / package / "tests" / "t.py").write_text(f'"""a test. {PROSE}"""')
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    order = [text.split()[0] for text in docstrings.docstrings()]
    assert sorted(order[:4]) == ["one", "one", "two", "two"]
    assert order[4:] == ["one"] * 3


def test_what_is_taken_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    code = f'''"""Module. {PROSE}"""
class C:
    """Class. {PROSE}

    >>> example of the thing that is to be shown
    """
    def method(self):
        """Method. {PROSE}"""
    async def again(self):
        """Method. {PROSE}"""
def short():
    """The first of the things."""
def table():
    """{"alpha beta gamma delta " * 20}"""
x = "\\d"
'''
    (tmp_path / "pack" / "good.py").write_text(code)
    (tmp_path / "pack" / "broken.py").write_text(f'"""Broken. {PROSE}"""\ndef (')
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    texts = list(docstrings.docstrings())
    assert [text.split()[0] for text in texts] == ["Module.", "Class.", "Method."]
    assert ">>>" not in texts[1]

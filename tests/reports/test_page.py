import pytest

from jackfield.core.errors import InputError
from jackfield.reports import GLOSSARY, HeatMap, Page, PageSection, Report, Text


@pytest.fixture
def page() -> Page:
    sections = [
        PageSection(
            "Where <it> is",
            "You see a map.",
            [HeatMap([[0.5]]), Report("A card", [Text("inside")])],
            "Dark is **strong**.",
            'jf.load("smollm2")  # the default',
        ),
        PageSection("Bare"),
    ]
    facts = {"model": "SmolLM2 <135M>", "rows": 50_000}
    return Page("A & B", "For *you*.", sections, facts, GLOSSARY, "Made today.")


def test_every_part_is_there(page, read):
    found = read(page.html)
    assert [h.text for h in found.all("h2")] == ["1Where <it> is", "2Bare", "The words used here"]
    assert [h.text for h in found.all("h3")] == ["A card", "How to read it"]
    for words in ("You see a map.", "SmolLM2 <135M>", "50000", "Dark is strong.", "Made today."):
        assert words in found.text
    assert found.all("code")[0].text == 'jf.load("smollm2")  # the default'
    assert set(GLOSSARY) <= {term.text for term in found.all("dt")}


def test_parts_that_are_not_given_are_not_shown(read):
    found = read(Page("Title").html)
    assert not found.all("h2")
    assert not found.all("nav")
    assert not found.all("dl")
    assert not found.all("details")


def test_code_is_folded_away(page, read):
    (details,) = read(page.html).all("details")
    assert "open" not in details.attributes


def test_save_writes_the_file(page, tmp_path):
    path = page.save(tmp_path / "demo" / "report.html")
    assert path.read_text(encoding="utf-8") == page.html


def test_save_refuses_other_suffixes(page, tmp_path):
    with pytest.raises(InputError, match=r"a name that ends in \.html, got '\.pdf'"):
        page.save(tmp_path / "x.pdf")


def test_sections_take_blocks_only():
    with pytest.raises(InputError, match="PageSection 's', block 0"):
        PageSection("s", blocks=["words"])

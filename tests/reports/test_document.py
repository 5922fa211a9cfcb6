import base64
import hashlib
import re

import pytest

from jackfield.reports import GLOSSARY, Figure, Page, PageSection, Report


@pytest.fixture(params=["page", "report"])
def html(request, everything) -> str:
    """A whole file, with a picture in it."""
    blocks = [everything, Figure(lambda axes: axes.plot([1, 2]))]
    if request.param == "report":
        return Report("r", blocks)._as_page().decode()
    section = PageSection("s", "looking", blocks, "reading", "import jackfield as jf")
    return Page("p", "sub", [section], {"model": "m"}, GLOSSARY, "foot").html


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_this_style_and_this_script_only(html, read):
    found = read(html)
    (policy,) = [m for m in found.all("meta") if m["http-equiv"] == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    (style,), (script,) = found.all("style"), found.all("script")
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'{digest(style.text)}'",
        "script-src": f"'{digest(script.text)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_policy_comes_before_what_it_governs(html):
    assert html.index("Content-Security-Policy") < html.index("<style>") < html.index("<script>")


def test_nothing_is_loaded_from_anywhere(html, read):
    assert not re.findall(r"https?://(?!www\.w3\.org/)", html)
    assert not re.findall(r"@import|url\(", html)
    for element in read(html).elements:
        for name in ("src", "href"):
            target = element[name] or "#"
            assert target.startswith(("#", "data:image/png;base64,")), target
        assert "style" not in element.attributes, "inline styles would be blocked"
        assert not [name for name in element.attributes if name.startswith("on")]


def test_document_is_for_everybody(html, read):
    found = read(html)
    assert found.all("html")[0]["lang"] == "en"
    metas = {meta["name"]: meta["content"] for meta in found.all("meta")}
    assert "width=device-width" in metas["viewport"]
    assert "prefers-color-scheme:dark" in found.all("style")[0].text.replace(" ", "")
    assert len(found.all("h1")) == 1
    assert all(image["alt"] is not None for image in found.all("img"))
    pictures = [svg for svg in found.all("svg") if svg["role"] == "img"]
    assert pictures
    assert all(svg["aria-label"] for svg in pictures)


def test_links_within_the_page_arrive(html, read):
    found = read(html)
    ids = {element["id"] for element in found.elements if element["id"]}
    assert {a["href"].lstrip("#") for a in found.all("a")} <= ids

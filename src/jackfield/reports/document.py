"""HTML around the blocks: a fragment for notebooks, or a whole file that loads nothing.

A file's content security policy allows its one style sheet and its one script by their hashes, and
pictures that are inside the file; whatever a token holds, nothing else can run or be fetched.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from jackfield.reports.glyphs import escape
from jackfield.reports.palette import stylesheet


def fragment(body: str) -> str:
    """HTML to put into a notebook cell: the style sheet and the body, no script."""
    return f"<style>{_blocks_css()}</style><div class=jackfield>{body}</div>"


def document(title: str, body: str, *, script: str = "") -> str:
    """A complete HTML file with `body` (trusted HTML) in it.

    Args:
        title: of the window.
        body: what is shown.
        script: run besides that of the pages; trusted, as the body is.
    """
    style = _blocks_css() + _asset("page.css")
    scripts = [_asset("hover.js"), *([script] if script else [])]
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            "script-src " + " ".join(f"'{_digest(each)}'" for each in scripts),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    tags = "".join(f"<script>{each}</script>" for each in scripts)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f'<body class="jackfield">\n{body}\n{tags}</body></html>\n'
    )


def captioned(inner: str, caption: str) -> str:
    """A block's picture with its caption below it, as HTML."""
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure class=jf-block>{inner}{note}</figure>"


@cache
def _blocks_css() -> str:
    return _asset("blocks.css") + stylesheet()


@cache
def _asset(name: str) -> str:
    """A text file of this folder; style sheets without comments and layout."""
    text = files("jackfield.reports").joinpath(name).read_text(encoding="utf-8")
    if not name.endswith(".css"):
        return text.strip()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"\s*([{};,>])\s*", r"\1", re.sub(r"\s+", " ", text)).replace(";}", "}").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

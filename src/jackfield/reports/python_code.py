"""Python source as HTML with its keywords, names, strings, numbers and comments told apart."""

import io
import keyword
import tokenize

from jackfield.reports.glyphs import escape

_CLASSES = {tokenize.STRING: "st", tokenize.NUMBER: "nu", tokenize.COMMENT: "co"}


def highlighted(source: str) -> str:
    """`source` escaped, its parts in spans; plain if it is not Python.

    >>> highlighted("import torch")
    '<span class=kw>import</span> torch'
    """
    source = source.strip("\n")
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return escape(source, keep="\n")
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    parts, done = [], 0
    for token in tokens:
        css = _CLASSES.get(token.type) or ("kw" if keyword.iskeyword(token.string) else "")
        if css:
            start = starts[token.start[0] - 1] + token.start[1]
            stop = starts[token.end[0] - 1] + token.end[1]
            between, inner = source[done:start], source[start:stop]
            parts.append(escape(between, keep="\n"))
            parts.append(f"<span class={css}>{escape(inner, keep=chr(10))}</span>")
            done = stop
    return "".join(parts) + escape(source[done:], keep="\n")

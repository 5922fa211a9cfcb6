"""The mark of Jackfield: sockets of a patch panel, two of them joined by a cable."""

_GAP = 34  # from socket to socket
_CABLES = ((3, 0, 9, 1, "o"), (6, 1, 15, 0, "b"), (12, 0, 20, 1, "o"), (17, 1, 24, 0, "b"))


def logo() -> str:
    """A small panel of six sockets with one cable."""
    sockets = "".join(_socket(8 + 12 * x, 8 + 12 * y, 4) for y in (0, 1) for x in (0, 1, 2))
    cable = '<path class="jf-cable jf-o" d="M8 8C8 26 32 30 32 20"/>'
    return f"<svg class=jf-logo viewBox='0 0 40 28' aria-hidden=true>{sockets}{cable}</svg>"


def panel() -> str:
    """Two rows of sockets with four cables, to decorate the head of a page."""
    columns, rows = 27, 2
    sockets = "".join(
        _socket(_GAP * (x + 0.5), _GAP * (y + 0.5) + 6, 7) for y in range(rows) for x in range(columns)
    )
    cables = "".join(_cable(*each) for each in _CABLES)
    size = f"0 0 {columns * _GAP} {rows * _GAP + 40}"
    return (
        f"<svg class=jf-panel viewBox='{size}' preserveAspectRatio='xMaxYMin slice'"
        f" aria-hidden=true>{sockets}{cables}</svg>"
    )


def _socket(x: float, y: float, r: float) -> str:
    return (
        f"<circle class=jf-ring cx={x:g} cy={y:g} r={r:g} />"
        f"<circle class=jf-hole cx={x:g} cy={y:g} r={r * 0.45:g} />"
    )


def _cable(x1: int, y1: int, x2: int, y2: int, shade: str) -> str:
    """A cable that hangs from one socket to another."""
    left, top = _GAP * (x1 + 0.5), _GAP * (y1 + 0.5) + 6
    right, bottom = _GAP * (x2 + 0.5), _GAP * (y2 + 0.5) + 6
    sag = 30 + 6 * (x2 - x1) ** 0.5
    curve = f"M{left:g} {top:g}C{left:g} {top + sag:g} {right:g} {bottom + sag:g} {right:g} {bottom:g}"
    plugs = "".join(
        f'<circle class="jf-plug jf-{shade}" cx={x:g} cy={y:g} r=5 />'
        for x, y in ((left, top), (right, bottom))
    )
    return f'<path class="jf-cable jf-{shade}" d="{curve}"/>{plugs}'

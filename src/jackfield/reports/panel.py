"""The mark of Jackfield: sockets of a patch panel, two of them joined by a cable."""

_GAP = 40  # from socket to socket
_COLUMNS, _ROWS = 19, 4
_CABLES = (  # from (column, row) to (column, row), and the shade
    (7, 1, 12, 0, "o"),
    (10, 2, 17, 1, "b"),
    (14, 0, 16, 3, "o"),
    (8, 3, 11, 3, "b"),
)


def logo() -> str:
    """A small panel of six sockets with one cable."""
    sockets = "".join(_socket(8 + 12 * x, 8 + 12 * y, 4) for y in (0, 1) for x in (0, 1, 2))
    cable = '<path class="jf-cable jf-o" d="M8 8C8 26 32 30 32 20"/>'
    return f"<svg class=jf-logo viewBox='0 0 40 28' aria-hidden=true>{sockets}{cable}</svg>"


def panel() -> str:
    """Rows of sockets with a few cables, to decorate the head of a page."""
    places = [_place(x, y) for y in range(_ROWS) for x in range(_COLUMNS)]
    sockets = "".join(_socket(*place, 8) for place in places)
    cables = "".join(_cable(*each) for each in _CABLES)
    size = f"0 0 {_COLUMNS * _GAP} {_ROWS * _GAP + 40}"
    return (
        f"<svg class=jf-panel viewBox='{size}' preserveAspectRatio=xMaxYMin"
        f" aria-hidden=true>{sockets}{cables}</svg>"
    )


def _place(column: int, row: int) -> tuple[float, float]:
    return _GAP * (column + 0.5), _GAP * (row + 0.5)


def _socket(x: float, y: float, r: float) -> str:
    return (
        f"<circle class=jf-ring cx={x:g} cy={y:g} r={r:g} />"
        f"<circle class=jf-hole cx={x:g} cy={y:g} r={r * 0.45:g} />"
    )


def _cable(x1: int, y1: int, x2: int, y2: int, shade: str) -> str:
    """A cable that hangs from one socket to another."""
    (left, top), (right, bottom) = _place(x1, y1), _place(x2, y2)
    sag = 30 + 6 * (x2 - x1)
    curve = (
        f"M{left:g} {top:g}C{left:g} {top + sag:g} {right:g} {bottom + sag:g} {right:g} {bottom:g}"
    )
    plugs = "".join(
        f'<circle class="jf-plug jf-{shade}" cx={x:g} cy={y:g} r=6 />'
        for x, y in ((left, top), (right, bottom))
    )
    return f'<path class="jf-cable jf-{shade}" d="{curve}"/>{plugs}'

"""Figure and Image: a drawing of one's own, and a picture that is already there."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

from jackfield.core.errors import InputError, MissingExtraError, explain
from jackfield.reports.block import Drawable, Row, fields_json, plain
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import escape, printable

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, repr=False)
class Figure(Drawable):
    """A drawing with matplotlib, made only when somebody looks.

    In JSON a Figure is the picture it draws, so it comes back as an Image.

    Attributes:
        plot: draws into the matplotlib axes that it is given.
        caption: one sentence.
        alt: what the drawing shows, for those who do not see it; the caption if empty.

    >>> Figure(lambda axes: axes.plot([1, 2]), caption="a line").text
    'a line (a drawing: see .figure())'
    """

    kind: ClassVar[str] = "figure"  # not among those that JSON may name

    plot: Callable[[Any], Any]
    caption: str = ""
    alt: str = ""

    def html(self, level: int) -> str:
        """The picture, inside the page; a note instead if matplotlib is not installed."""
        try:
            return self._image().html(level)
        except MissingExtraError as error:
            return captioned(f"<p class=jf-more>{escape(str(error))}</p>", self.caption)

    @property
    def text(self) -> str:
        """The caption."""
        return f"{printable(self.caption)} (a drawing: see .figure())".strip()

    @property
    def rich(self) -> Any:
        """The caption."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """No data."""
        return []

    def to_json(self) -> dict[str, Any]:
        """The drawn picture, as an Image."""
        return self._image().to_json()

    def draw(self, axes: Any) -> None:
        """Calls `plot`."""
        self.plot(axes)

    def _image(self) -> "Image":
        return Image.from_png(png(self), caption=self.caption, alt=self.alt)


@dataclass(frozen=True, repr=False)
class Image(Drawable, kind="image"):
    """A PNG picture.

    Attributes:
        data: the file in base64; see `Image.from_png`.
        caption: one sentence.
        alt: what the picture shows; the caption if empty.

    Raises:
        InputError: `data` is not a PNG file in base64.
    """

    data: str
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        try:
            is_png = base64.b64decode(self.data, validate=True).startswith(_PNG)
        except (binascii.Error, ValueError):
            is_png = False
        if not is_png:
            got = repr(self.data[:24])
            raise InputError(explain(where="Image", expected="a PNG file in base64", got=got))

    @staticmethod
    def from_png(png: bytes, *, caption: str = "", alt: str = "") -> "Image":
        """An Image of the bytes of a PNG file."""
        return Image(base64.b64encode(png).decode(), caption, alt)

    def html(self, level: int) -> str:
        """The picture, inside the page."""
        alt = escape(self.alt or self.caption)
        inner = f'<img class=jf-image src="data:image/png;base64,{self.data}" alt="{alt}">'
        return captioned(inner, self.caption)

    @property
    def text(self) -> str:
        """The caption."""
        return f"{printable(self.caption or self.alt)} (a picture)".strip()

    @property
    def rich(self) -> Any:
        """The caption."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """No data."""
        return []

    def to_json(self) -> dict[str, Any]:
        """The picture in base64, the caption."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """The picture without axes."""
        from matplotlib.image import imread

        axes.imshow(imread(BytesIO(base64.b64decode(self.data))))
        axes.set_axis_off()


def png(block: Drawable, *, dpi: int = 110) -> bytes:
    """The bytes of a PNG file with the block's figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import warnings

    figure, buffer = block.figure(), BytesIO()
    with warnings.catch_warnings():
        # A token in a script that matplotlib's font lacks is drawn as a box: no reason to stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()

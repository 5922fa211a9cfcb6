"""Reports: what a method shows. A table, a figure, a sentence; a notebook, a terminal, a page.

Lives here: the blocks (Text, Table, HeatMap, Lines, Scatter, Histogram, Bars, Tokens, SideBySide,
Figure, Image, Columns, pictures of circuits and of interactions), `Report`, which holds them and
saves itself as .html, .png, .csv or .json, `Page`, one self-contained file for a newcomer, and the
intervals that stand beside means and shares.
May use: core. Look first: `report.py`, then `block.py` (what every block can do) and `heatmap.py`.
"""

from jackfield.reports.bars import Bars
from jackfield.reports.block import Block, Drawable
from jackfield.reports.circuit_picture import CircuitPicture
from jackfield.reports.heatmap import HeatMap
from jackfield.reports.histogram import Histogram
from jackfield.reports.interaction_picture import InteractionPicture
from jackfield.reports.layout import Columns
from jackfield.reports.lines import Lines
from jackfield.reports.page import GLOSSARY, Page, PageSection
from jackfield.reports.picture import Figure, Image
from jackfield.reports.prose import Text
from jackfield.reports.report import Report
from jackfield.reports.scatter import Scatter
from jackfield.reports.side_by_side import SideBySide
from jackfield.reports.table import Table
from jackfield.reports.tokens import Tokens

__all__ = [
    "GLOSSARY",
    "Bars",
    "Block",
    "CircuitPicture",
    "Columns",
    "Drawable",
    "Figure",
    "HeatMap",
    "Histogram",
    "Image",
    "InteractionPicture",
    "Lines",
    "Page",
    "PageSection",
    "Report",
    "Scatter",
    "SideBySide",
    "Table",
    "Text",
    "Tokens",
]

"""Jackfield: one instrument for the activations of any PyTorch model.

    import jackfield as jf

    model = jf.load("smollm2")
    run = model.run(["The capital of France is"], sites=["layers.*.resid_post"])

Rooms, each of which may use those before it: core, edits, streams, model, engines, reports, the
chapters (lenses, dictionaries, circuits, steering, sparsity, functions, memory), catalogue,
testing, cli. Nothing heavy is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield import circuits as circuits
    from jackfield import dictionaries as dictionaries
    from jackfield import edits as edits
    from jackfield import engines as engines
    from jackfield import functions as functions
    from jackfield import lenses as lenses
    from jackfield import memory as memory
    from jackfield import sparsity as sparsity
    from jackfield import steering as steering
    from jackfield.core.where import Role as Role
    from jackfield.core.where import Rows as Rows
    from jackfield.core.where import Tokens as Tokens
    from jackfield.model.load import load as load
    from jackfield.model.load import wrap as wrap
    from jackfield.model.model import Model as Model
    from jackfield.model.run import Run as Run
    from jackfield.reports import Page as Page
    from jackfield.reports import Report as Report
    from jackfield.streams import Histogram as Histogram
    from jackfield.streams import Moments as Moments
    from jackfield.streams import Quantiles as Quantiles
    from jackfield.streams import Store as Store
    from jackfield.streams import Stream as Stream
    from jackfield.streams import TopExamples as TopExamples
    from jackfield.streams import corpus as corpus

from jackfield.core.version import VERSION

__version__ = VERSION

_ROOMS = (
    *("circuits", "dictionaries", "edits", "engines", "functions"),
    *("lenses", "memory", "sparsity", "steering"),
)
_NAMES = {
    "load": "jackfield.model.load",
    "wrap": "jackfield.model.load",
    "Model": "jackfield.model.model",
    "Run": "jackfield.model.run",
    "Page": "jackfield.reports",
    "Report": "jackfield.reports",
    "Histogram": "jackfield.streams",
    "Moments": "jackfield.streams",
    "Quantiles": "jackfield.streams",
    "Store": "jackfield.streams",
    "Stream": "jackfield.streams",
    "TopExamples": "jackfield.streams",
    "corpus": "jackfield.streams",
    "Role": "jackfield.core.where",
    "Rows": "jackfield.core.where",
    "Tokens": "jackfield.core.where",
}

__all__ = ["__version__", *_ROOMS, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _ROOMS:
        return import_module(f"jackfield.{name}")
    raise AttributeError(f"module 'jackfield' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Optional dependencies: loaded when used, with the command that installs them when missing."""

import importlib
from types import ModuleType

from jackfield.core.errors import MissingExtraError


def need(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, or says which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        command = f"pip install 'jackfield[{extra}]'"
        message = f"{purpose} needs {package}, which is not installed. Run: {command}"
        raise MissingExtraError(message) from error

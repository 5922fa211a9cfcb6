"""Errors and warnings in one shape: where, what was expected, what came, what to do next."""

import difflib
import warnings
from collections.abc import Iterable


class JackfieldError(Exception):
    """Base of every error that Jackfield raises on purpose."""


class ConfigError(JackfieldError, ValueError):
    """A setting has a wrong type or value."""


class SiteError(JackfieldError, ValueError):
    """A site does not exist, did not fire, or cannot do what was asked of it."""


class EditError(JackfieldError, ValueError):
    """An edit does not fit the activation that it was given."""


class InputError(JackfieldError, ValueError):
    """What was given to run on cannot be run on."""


class ModelError(JackfieldError, ValueError):
    """The model as a whole cannot do what was asked (compiled, no head, no blocks)."""


class SourceError(JackfieldError, ValueError):
    """A model or file could not be found, fetched, verified or read."""


class ArtifactError(JackfieldError, ValueError):
    """A saved object is damaged, foreign, or of a newer format."""


class BusyError(JackfieldError, RuntimeError):
    """The model is in use by another thread, or by a context that forbids this."""


class MissingExtraError(JackfieldError, ImportError):
    """An optional dependency is not installed."""


class JackfieldWarning(UserWarning):
    """A setting has no effect, or a result needs a remark."""


def explain(*, where: str, expected: str, got: str, hint: str | None = None) -> str:
    """Builds the one-line message that every error of ours carries.

    >>> explain(where="smollm2, layers.99.resid_post", expected="a layer from 0 to 29", got="99")
    'smollm2, layers.99.resid_post: expected a layer from 0 to 29, got 99.'
    """
    line = f"{where}: expected {expected}, got {got}."
    return f"{line} {hint}" if hint else line


def nearest(name: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """The `n` choices most like `name`, best first.

    >>> nearest("layers.5.resid_pots", ["layers.5.resid_post", "logits"])
    ['layers.5.resid_post']
    """
    return difflib.get_close_matches(name, list(choices), n=n, cutoff=0.4)


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """The hint "Did you mean …?", or None when nothing is near."""
    near = nearest(name, choices)
    return f"Did you mean {' or '.join(near)}?" if near else None


def warn(message: str, *, stacklevel: int = 3) -> None:
    """Warns the user; `stacklevel` counts from the caller of the function that warns."""
    warnings.warn(message, JackfieldWarning, stacklevel=stacklevel)

"""Doors: a dictionary from the files of another library, and into them."""

from pathlib import Path

from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import (
    ArtifactError,
    ConfigError,
    InputError,
    did_you_mean,
    explain,
)
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.formats.dictionary_learning import DictionaryLearning
from jackfield.dictionaries.formats.format import Format
from jackfield.dictionaries.formats.gemma_scope import GemmaScope
from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.formats.sae_lens import SAELens
from jackfield.dictionaries.formats.sparsify import Sparsify
from jackfield.dictionaries.sparse_dictionary import SparseDictionary

_FORMATS: tuple[Format, ...] = (SAELens(), Sparsify(), DictionaryLearning(), GemmaScope())
_NAMES = [each.name for each in _FORMATS]


def load_dictionary(
    path: str | Path, format: str | None = None, site: Site | None = None
) -> SparseDictionary:
    """Reads a dictionary of SAELens 6, sparsify, dictionary_learning or Gemma Scope.

    It gives the x̂ that the library gives. Its codes are in units of the activation, that is theirs
    times the length of the latent's decoder row, and its directions have length 1; see `lengths.py`
    for the one exception. Weights narrower than float32 are widened. It has no training history.

    Args:
        path: the folder, or one of the files in it.
        format: "sae_lens", "sparsify", "dictionary_learning" or "gemma_scope"; by the files in the
            folder if not given.
        site: where it is to act, if the files do not tell or another is wanted; of a transcoder
            the site that is read and the site that is rebuilt.

    Raises:
        ConfigError: an unknown format.
        InputError: one site for a transcoder, or two for an autoencoder.
        ArtifactError: no such files, a damaged or foreign one, a setting that we have no equal
            for, or no known site.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    chosen = _recognised(folder) if format is None else _named(format)
    return chosen.read(folder, site)


def save_dictionary(dictionary: Dictionary, path: str | Path, *, format: str) -> Path:
    """Writes a dictionary into a folder, in the format of another library.

    The library gives the codes and the x̂ that the dictionary gives. What its format has no place
    for is lost: which rows are `inside`, the training's history, and the method's settings.

    Args:
        dictionary: an autoencoder, or a transcoder that reads one site.
        path: a new or empty folder, or one with a dictionary of this format, which is replaced.
        format: "sae_lens", "sparsify" or "dictionary_learning".

    Returns:
        The folder.

    Raises:
        ConfigError: an unknown format.
        InputError: the format has no place for such a dictionary.
        ArtifactError: other things are in the folder.
    """
    path, chosen = Path(path), _named(format)
    if not isinstance(dictionary, SparseDictionary):
        expected, got = "a SparseDictionary", type(dictionary).__name__
        raise InputError(explain(where=f"save_dictionary, {format}", expected=expected, got=got))
    _check_free(path, chosen)
    contents = chosen.contents(dictionary)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        atomic_write(path / name, data)
    return path


def _named(name: str) -> Format:
    found = [each for each in _FORMATS if each.name == name]
    if not found:
        expected = "format " + " or ".join(_NAMES)
        hint = did_you_mean(str(name), _NAMES)
        raise ConfigError(explain(where="dictionary", expected=expected, got=repr(name), hint=hint))
    return found[0]


def _recognised(folder: Path) -> Format:
    found = [each for each in _FORMATS if all((folder / file).is_file() for file in each.files)]
    if found:
        return found[0]
    held = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else ["no such folder"]
    known = "; ".join(f"{' and '.join(each.files)} ({each.name})" for each in _FORMATS)
    got = ", ".join(held[:8]) or "an empty folder"
    raise ArtifactError(explain(where=str(folder), expected=known, got=got))


def _check_free(path: Path, format: Format) -> None:
    if path.is_dir() and (not any(path.iterdir()) or (path / format.files[-1]).is_file()):
        return
    if path.exists():
        expected = f"a new or empty folder, or one that holds {format.files[-1]}"
        got = "a folder with other things in it" if path.is_dir() else "a file"
        raise ArtifactError(explain(where=str(path), expected=expected, got=got))

"""Format: what a foreign format must be able to do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from jackfield.dictionaries.formats.names import Site
from jackfield.dictionaries.sparse_dictionary import SparseDictionary


class Format(ABC):
    """One dictionary in one folder.

    Attributes:
        name: what `load_dictionary(format=...)` calls it.
        files: what its folder holds; by all of them together it is recognised.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read(self, folder: Path, site: Site | None) -> SparseDictionary:
        """The dictionary in a folder.

        Raises:
            ArtifactError: a file is missing, damaged or of another version, a tensor is missing or
                of another shape, a setting is one that we have no equal for, or the site is not
                told by the files and not given.
        """

    @abstractmethod
    def contents(self, dictionary: SparseDictionary) -> dict[str, bytes]:
        """The files that hold a dictionary, by their names.

        Raises:
            InputError: the format has no place for such a dictionary.
        """

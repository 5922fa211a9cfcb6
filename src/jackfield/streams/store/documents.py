"""Documents: the texts that a store keeps, found by id."""

from functools import cached_property

import numpy as np

from jackfield.core.errors import InputError, explain
from jackfield.streams.store import sidecars
from jackfield.streams.store.files import Files
from jackfield.streams.store.layout import Group
from jackfield.streams.texts import Text


class Documents:
    """The documents of a store: `len(store.documents)`, `store.documents[id]`."""

    def __init__(self, files: Files, groups: list[Group]) -> None:
        self._files = files
        self._names = [g.files["documents"]["file"] for g in groups if "documents" in g.files]

    @cached_property
    def _index(self) -> "tuple[np.ndarray, np.ndarray]":
        """Ids, sorted, and the file that each is in."""
        found = [sidecars.document_ids(self._files.read(name)).numpy() for name in self._names]
        ids = np.concatenate([np.zeros(0, np.int64), *found])
        of = np.repeat(np.arange(len(found)), [len(each) for each in found])
        order = np.argsort(ids, kind="stable")
        return ids[order], of[order]

    def __len__(self) -> int:
        return len(self._index[0])

    def __getitem__(self, number: int) -> Text:
        """The text of a document.

        Raises:
            InputError: it is not in the store.
        """
        ids, of = self._index
        at = int(np.searchsorted(ids, number))
        if at == len(ids) or ids[at] != number:
            expected = f"one of {len(ids):,} documents" if len(ids) else "a store with texts"
            hint = None if len(ids) else "A live stream of a language model brings them along."
            where = f"store {self._files.url}"
            got = f"document {number}"
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
        return sidecars.read_document(self._files.read(self._names[int(of[at])]), number)

    def __repr__(self) -> str:
        return f"Documents({len(self):,})"

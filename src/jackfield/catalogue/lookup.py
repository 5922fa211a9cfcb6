"""The catalogue's two questions: what is there (`records`), and which one is called so (`find`)."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

from jackfield.catalogue.records import RECORDS
from jackfield.core.errors import ConfigError, did_you_mean, explain, warn
from jackfield.core.records import Record

GROUP = "jackfield.methods"  # of the entry points


def records() -> tuple[Record, ...]:
    """All records: ours, then those of installed plugins, which are asked at each call.

    A plugin that cannot be loaded, gives something else, or takes a name that is in use is left
    out with a warning: it must not take the others down.

    >>> [record.name for record in records() if record.chapter == "lenses"]
    ['logit-lens']
    """
    found = {record.name: record for record in RECORDS}
    for plugin in metadata.entry_points(group=GROUP):
        for record in _given_by(plugin):
            if record.name in found:
                warn(f"plugin {plugin.name!r}: the name {record.name!r} is in use; left out.")
            else:
                found[record.name] = record
    return tuple(found.values())


def find(name: str) -> Record:
    """The record of that name.

    Raises:
        ConfigError: there is none; says which names are near.
    """
    found = {record.name: record for record in records()}
    if name not in found:
        expected = f"one of {', '.join(found)}"
        hint = did_you_mean(name, found)
        raise ConfigError(explain(where="catalogue", expected=expected, got=repr(name), hint=hint))
    return found[name]


def _given_by(plugin: metadata.EntryPoint) -> Iterator[Record]:
    try:
        given: Any = plugin.load()
        listed = [given] if isinstance(given, Record) else list(_iterable(given))
    except Exception as error:  # whatever a foreign package does when it is imported
        warn(f"plugin {plugin.name!r} ({plugin.value}): {type(error).__name__}: {error}.")
        return
    for each in listed:
        if isinstance(each, Record):
            yield each
        else:
            warn(f"plugin {plugin.name!r} ({plugin.value}): not a Record: {each!r}.")


def _iterable(given: Any) -> Iterable[Any]:
    return given if isinstance(given, Iterable) else [given]

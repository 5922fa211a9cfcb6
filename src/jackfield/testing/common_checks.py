"""Checks of every entry: its documentation; and of every config."""

import inspect
import re
from typing import Any

from jackfield.core.config import from_json, to_json
from jackfield.core.records import Record
from jackfield.testing.claims import NoTensorWork, as_json, claim, same

_SOURCE = re.compile(r"\b\d{4}\.\d{4,5}\b")
_SHAPE = re.compile(r"\[(\.{3}|[a-z])[\w, .]*\]")


def docstring_has_source_shapes_and_example(record: Record, example: Any) -> None:
    """The texts name the paper, give shapes in brackets and show an example."""
    target = record.load()
    text = _texts(target)
    claim(bool(target.__doc__), "the class has no docstring")
    claim(bool(record.summary), "the record has no summary")
    if record.arxiv:
        claim(record.arxiv in text, f"the docstrings do not name arXiv {record.arxiv}")
    else:
        claim(bool(record.paper), "the record names neither a paper nor an arXiv id")
    claim(bool(_SHAPE.search(text)), "the docstrings give no shape, such as [row, d]")
    claim(">>>" in text, "the docstrings show no example that runs (>>> ...)")


def record_matches_its_target(record: Record, example: Any) -> None:
    """The record's chapter is the room of its target, and its arXiv id is one."""
    module, _, name = record.target.partition(":")
    claim(bool(name), f"the target {record.target!r} is not 'module:Class'")
    if module.startswith("jackfield."):
        room = module.split(".")[1]
        claim(room == record.chapter, f"chapter {record.chapter!r}, but the target is in {room!r}")
    if record.arxiv:
        claim(bool(_SOURCE.fullmatch(record.arxiv)), f"{record.arxiv!r} is not an arXiv id")


def config_survives_json(record: Record, example: Any) -> None:
    """A config is the same after JSON text, and after `repr` is read as Python."""
    made = example.make()
    cls = type(made)
    again = from_json(cls, as_json(to_json(made)))
    claim(again == made, f"from JSON: {made!r} became {again!r}")
    reread = eval(repr(made), {cls.__name__: cls})  # our own repr, of a config made here
    claim(reread == made, f"from repr: {made!r} became {reread!r}")


def constructor_does_no_work(record: Record, example: Any) -> None:
    """Making a config calls nothing of torch, and keeps its fields and nothing else."""
    with NoTensorWork():
        made = example.make()
    extra = sorted(set(vars(made)) - set(to_json(made)))
    claim(not extra, f"the constructor made {', '.join(extra)} beside the fields")


def config_is_frozen(record: Record, example: Any) -> None:
    """The settings of a config cannot be set after it was made."""
    made = example.make()
    name = next(iter(to_json(made)), None)
    if name is None:
        return
    try:
        setattr(made, name, getattr(made, name))
    except AttributeError:
        return
    same("frozen", "mutable", f"{type(made).__name__}.{name}")


def _texts(target: Any) -> str:
    """The docstrings of the module, its classes and their methods."""
    module = inspect.getmodule(target)
    here = [each for each in vars(module).values() if inspect.isclass(each)]
    owners = [target, *(each for each in here if each.__module__ == target.__module__)]
    members = [each for owner in owners for each in vars(owner).values() if callable(each)]
    return "\n".join(inspect.getdoc(each) or "" for each in (module, *owners, *members))

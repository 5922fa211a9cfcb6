"""Configs: frozen keyword-only dataclasses whose fields are checked when they are made.

A config holds what determines a result, seed included. Its constructor does no work.

    @config
    class TopK:
        latents: int = setting(default=2048, ge=1)
        k: int = setting(default=32, ge=1)
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from jackfield.core.errors import ConfigError, did_you_mean

T = TypeVar("T")

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": (">=", lambda value, bound: value >= bound),
    "gt": (">", lambda value, bound: value > bound),
    "le": ("<=", lambda value, bound: value <= bound),
    "lt": ("<", lambda value, bound: value < bound),
}


def setting(
    *, default: Any = dataclasses.MISSING, choices: tuple[Any, ...] = (), **bounds: Any
) -> Any:
    """A field of a config: its default, and either `choices` or bounds `ge`, `gt`, `le`, `lt`."""
    assert bounds.keys() <= _BOUNDS.keys(), bounds
    metadata = {"choices": choices, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def config(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen keyword-only dataclass that checks its fields.

    >>> @config
    ... class Example:
    ...     k: int = setting(default=32, ge=1)
    >>> Example(k=0)
    Traceback (most recent call last):
        ...
    jackfield.core.errors.ConfigError: Example: expected 'k' to be int >= 1, got 0.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    plain_init = made.__init__

    @functools.wraps(plain_init)
    def checked_init(self: Any, **values: Any) -> None:
        known = [field.name for field in dataclasses.fields(made)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                hint = did_you_mean(name, known) or f"It has: {', '.join(known)}."
                raise ConfigError(f"{made.__name__}: has no setting '{name}'. {hint}")
        plain_init(self, **values)
        _check(self)

    made.__init__ = checked_init  # type: ignore[method-assign]
    return made


def to_json(value: Any) -> dict[str, Any]:
    """The settings of a config as JSON types (tuples become lists)."""
    return {
        field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)
    }


def from_json(cls: type[T], data: dict[str, Any]) -> T:
    """Rebuilds a config from `to_json`; unknown or wrong settings raise ConfigError."""
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_list(value, hints.get(name)) for name, value in data.items()})


def replace(value: T, **changes: Any) -> T:
    """A copy of a config with some settings changed (and checked)."""
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]


def _check(value: Any) -> None:
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        got = getattr(value, field.name)
        if not _fits(got, hints[field.name]) or not _within(got, field.metadata):
            expected = _expected(hints[field.name], field.metadata)
            raise ConfigError(
                f"{type(value).__name__}: expected '{field.name}' to be {expected}, got {got!r}."
            )


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is float:  # an int is a float to whoever writes a config; a bool is neither
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is tuple:
        each = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(item, each) for item in value)
    return isinstance(value, origin or hint)


def _within(value: Any, metadata: Any) -> bool:
    if value is None or not metadata:
        return True
    if metadata["choices"] and value not in metadata["choices"]:
        return False
    return all(_BOUNDS[name][1](value, bound) for name, bound in metadata["bounds"].items())


def _expected(hint: Any, metadata: Any) -> str:
    kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    if metadata and metadata["choices"]:
        return f"one of {', '.join(map(repr, metadata['choices']))}"
    bounds = metadata["bounds"] if metadata else {}
    return " ".join(
        [kind, " and ".join(f"{_BOUNDS[name][0]} {b}" for name, b in bounds.items())]
    ).strip()


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_list(value: Any, hint: Any) -> Any:
    wants_tuple = typing.get_origin(hint) is tuple or any(
        typing.get_origin(each) is tuple for each in typing.get_args(hint)
    )
    return tuple(value) if isinstance(value, list) and wants_tuple else value

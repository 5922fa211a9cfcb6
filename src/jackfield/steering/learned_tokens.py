"""Learned tokens: an edit that was learned on some tokens acts on no others."""

from typing import TYPE_CHECKING, Any

from jackfield.core.errors import InputError, explain
from jackfield.core.where import ALL, Where, depends_on_prompt, where

if TYPE_CHECKING:
    from jackfield.model.model import Model


def narrowed(own: Any, given: Any) -> Where:
    """Of the tokens that are given those of a rule of one's own.

    Whether sinks are among them is for the given rule alone to say, if the own one does no more
    than leave them out.

    >>> narrowed("last", "~sinks")
    Both(left=Phase(name='last'), right=Except(inner=Sinks()))
    >>> narrowed("~sinks", "all")
    All()
    """
    own, given = where(own), where(given)
    return given if own in (ALL, where("~sinks")) else own & given


def check_prompted(model: "Model", rule: Any, *, prompted: bool) -> None:
    """A rule that asks where the prompt ends needs prompts to learn on.

    Raises:
        InputError: it asks, and there are none.
    """
    if not prompted and depends_on_prompt(where(rule)):
        expected, got = "prompts, as the rule asks where they end", "texts alone"
        label = f"{model.name}, where={rule!r}"
        raise InputError(explain(where=label, expected=expected, got=got, hint="Give prompts=…"))

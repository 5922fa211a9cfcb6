"""Description: what an export says of itself in `_activations.json`, so that nothing is guessed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jackfield.streams.adapters.table import damaged

_FILE = "_activations.json"  # readers of whole folders leave names with _ out


@dataclass(frozen=True)
class Description:
    """What was exported.

    Attributes:
        sites: which columns hold activations.
        rows: how many rows were written.
        contexts: whether the arrays are [context, position, ...].
        provenance: of the stream that was written.
    """

    sites: list[str]
    rows: int
    contexts: bool
    provenance: dict[str, Any]


def write_description(folder: Path, description: Description) -> None:
    """Writes it beside the files."""
    (folder / _FILE).write_text(json.dumps(asdict(description), indent=2))


def read_description(folder: Path) -> Description | None:
    """Reads it; None where another program wrote the files.

    Raises:
        InputError: it is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text())
        sites = [str(site) for site in told["sites"]]
        return Description(sites, int(told["rows"]), bool(told["contexts"]), told["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, "the description of an export", error) from error

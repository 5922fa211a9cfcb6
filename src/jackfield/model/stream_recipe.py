"""Recipes: a live stream as JSON, to be made again in another process or on another machine.

The model goes by its source, the corpus by its files, edits as the files that `save_edits` writes.
What only this process has (a wrapped module, a function, a generator) is refused here, not there.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from jackfield.core import where as rules
from jackfield.core.errors import ArtifactError, EditError, InputError, explain
from jackfield.edits import Edit, load_edits, save_edits
from jackfield.streams import Corpus

if TYPE_CHECKING:
    from jackfield.model.model import Model


def of_stream(
    model: Model, corpus: Any, sites: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe of a stream; `given` are its other arguments.

    Raises:
        InputError: something cannot be made again elsewhere.
    """
    source = _source(model)
    dtype = given["dtype"]
    return {
        "model": source,
        "corpus": corpus.recipe(),
        "sites": list(sites),
        "options": {
            **given,
            "where": rules.to_json(given["where"]),
            "dtype": None if dtype is None else _name(dtype),
            "edits": _packed(given["edits"], model.name),
        },
    }


def model_and_corpus(recipe: Mapping[str, Any], load: Mapping[str, Any]) -> tuple[Model, Corpus]:
    """The model, loaded with the options `load` of this machine, and the corpus."""
    from jackfield.model.load import load as load_model

    source = recipe["model"]
    dtype, revision = getattr(torch, source["dtype"]), source["revision"]
    model = load_model(source["source"], dtype=dtype, revision=revision, **load)
    return model, Corpus.from_recipe(recipe["corpus"])


def options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The other arguments of the stream."""
    given = dict(recipe["options"])
    given["where"] = rules.from_json(given["where"])
    given["dtype"] = None if given["dtype"] is None else getattr(torch, given["dtype"])
    given["edits"] = _unpacked(given["edits"])
    return given


def told(edit: Edit) -> dict[str, str]:
    """An edit for a stream's provenance: what it says of itself, and a hash of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(edit.tensors().items()):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(
            f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + raw.numpy().tobytes()
        )
    return {"edit": repr(replace(edit, at=edit.sites)), "sha256": digest.hexdigest()}


def _source(model: Model) -> dict[str, Any]:
    """What `jf.load` needs.

    Raises:
        InputError: the model was not made by it, or has been rewritten since.
    """
    known = model.provenance
    if "source" not in known or "rewrite" in known:
        got = "a rewritten one" if "rewrite" in known else "a wrapped module"
        hint = "Save it to a folder and load that, to read it in other processes."
        expected = "a model as jf.load gives it"
        where = f"{model.name}.stream, recipe"
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    return {
        "source": known.get("path", known["source"]),
        "revision": known.get("revision"),
        "dtype": _name(model.dtype),
    }


def _packed(edits: Sequence[Edit], name: str) -> dict[str, str] | None:
    """The files of saved edits, in base64; read again once to see that they can be."""
    if not edits:
        return None
    with TemporaryDirectory() as folder:
        try:
            path = save_edits(Path(folder) / "edits", edits)
            load_edits(path)
        except (ArtifactError, EditError) as error:
            expected = "edits that can be saved as data"
            where = f"{name}.stream, recipe"
            raise InputError(explain(where=where, expected=expected, got=str(error))) from error
        return {each.name: b64encode(each.read_bytes()).decode() for each in path.iterdir()}


def _unpacked(files: Mapping[str, str] | None) -> list[Edit]:
    if files is None:
        return []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "edits"
        path.mkdir()
        for name, data in files.items():
            (path / Path(name).name).write_bytes(b64decode(data))
        return load_edits(path)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

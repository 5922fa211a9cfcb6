"""Model folders in the layout of `transformers`: config.json, *.safetensors, tokenizer files.

Local folders, snapshots of the hub and what lies in our cache are all opened here. Only
safetensors are read: a pickle can run code when it is opened, so a folder that has nothing else
is refused with the command that converts it.
"""

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jackfield.core.errors import SourceError, explain, nearest, warn
from jackfield.core.extras import need

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.*",
    "*.tiktoken",
)

_OPENABLE = "a model that transformers can open"


def open_folder(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device_map: Any = None,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Any | None]:
    """The module (eval mode) and the tokenizer, None if the folder has none.

    Args:
        folder: holds config.json and safetensors.
        dtype: None keeps what is stored.
        device_map: as in `transformers`; needs accelerate.
        trust_remote_code: run the Python files of the folder.

    Raises:
        SourceError: something is missing or cannot be read.
        MissingExtraError: `device_map` without accelerate.
    """
    config = _read_config(folder)
    architecture = (config.get("architectures") or ["AutoModel"])[0]
    names = [path.name for path in folder.iterdir()]
    refuse_pickles(names, where=str(folder), architecture=architecture)
    if device_map is not None:
        need("accelerate", extra="accelerate", purpose="device_map")
    model_class = _model_class(config, architecture, folder, trust_remote_code)
    with readable(folder, _OPENABLE), quiet():
        module, info = model_class.from_pretrained(
            folder,
            dtype=dtype or "auto",
            device_map=device_map,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    _warn_of_missing(info["missing_keys"], folder)
    return module, _open_tokenizer(folder, trust_remote_code)


def refuse_pickles(names: Iterable[str], *, where: str, architecture: str = "AutoModel") -> None:
    """Asks for safetensors among the files `names` of a model of class `architecture`.

    Raises:
        SourceError: there are none; says how to convert pickles if there are any.
    """
    names = sorted(names)
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    hint = (
        "A pickle can run code when it is opened. If you trust it, convert it once: "
        f"python -c \"from transformers import {architecture} as M; p = '{where}'; "
        'M.from_pretrained(p).save_pretrained(p)"'
    )
    raise SourceError(
        explain(
            where=where,
            expected="weights as .safetensors",
            got=f"only {', '.join(pickles)}" if pickles else f"{', '.join(names) or 'nothing'}",
            hint=hint if pickles else None,
        )
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what `transformers` tells developers from the user, inside the block only.

    What matters of it (weights that are missing) we say ourselves.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars_off = are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
            if hub_bars_off:
                disable_progress_bars()


@contextlib.contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turns the many ways in which foreign readers fail on a file into one clear line.

    Raises:
        SourceError: anything was raised inside the block.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        got = f"{type(error).__name__}: {reason}"
        raise SourceError(explain(where=str(path), expected=expected, got=got)) from error


# ------------------------------------------------------------------------- parts of a folder


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        names = sorted(path.name for path in folder.iterdir())
        files = [name for name in names if name.endswith(".gguf")]
        raise SourceError(
            explain(
                where=str(folder),
                expected="a folder with a config.json",
                got=", ".join(names[:8]) or "an empty folder",
                hint=f"Give the file: {folder / files[0]}." if files else None,
            )
        ) from error
    except ValueError as error:
        raise SourceError(
            explain(where=str(folder / "config.json"), expected="valid JSON", got=str(error))
        ) from error


def _model_class(
    config: dict[str, Any], architecture: str, folder: Path, trust_remote_code: bool
) -> Any:
    """The class that wrote the folder, so that its head is kept."""
    import transformers

    own_code = config.get("auto_map", {})
    if trust_remote_code and own_code:
        known = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel")
        return getattr(
            transformers, next((name for name in known if name in own_code), "AutoModel")
        )
    if model_class := getattr(transformers, architecture, None):
        return model_class
    near = nearest(
        architecture, (name for name in dir(transformers) if name.startswith(architecture[:3]))
    )
    hint = "Pass trust_remote_code=True to run the Python files that came with it."
    raise SourceError(
        explain(
            where=str(folder),
            expected=f"an architecture of transformers {transformers.__version__}",
            got=architecture,
            hint=hint if own_code else f"Near: {', '.join(near)}." if near else None,
        )
    )


def _open_tokenizer(folder: Path, trust_remote_code: bool) -> Any | None:
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    with readable(folder, _OPENABLE), quiet():
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )


def _warn_of_missing(missing: Iterable[str], folder: Path) -> None:
    names = sorted(missing)
    if names:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        warn(f"{folder}: {len(names)} weights are not in the files and are random now: {shown}.")

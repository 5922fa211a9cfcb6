"""The build hook: compiles the sparse kernels into the package where there is a C++ compiler.

With them the wheel is of this platform, for every Python 3; without, it is of any platform. A
compiler that is not there or fails is no failure: the package is whole without kernels, and slower.
"""

import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "src/jackfield/dictionaries/kernels"


class KernelsHook(BuildHookInterface[Any]):
    """Runs for wheels and editable installs; an sdist carries the source only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and names the wheel after what came of it."""
        made = _compiling(Path(self.root)).build()
        if not made:
            self.app.display_warning("sparse kernels: not compiled, PyTorch will do their work")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"] += [f"{KERNELS}/{path.name}" for path in made]


def _compiling(root: Path) -> ModuleType:
    """build.py by its path: what Jackfield imports is not installed yet."""
    spec = spec_from_file_location("build_kernels", root / KERNELS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

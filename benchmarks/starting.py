"""Starting: what `import jackfield` and the second load of the default model cost."""

import statistics
import subprocess
import sys

_IMPORT = """
import time, torch
begun = time.perf_counter()
import jackfield
print(time.perf_counter() - begun)
import sys
heavy = {"transformers", "matplotlib", "rich", "sklearn"} & set(sys.modules)
print(",".join(heavy) or "none")
"""
_LOAD = """
import time, torch
{imported}
import jackfield as jf
begun = time.perf_counter()
jf.load("smollm2")
print(time.perf_counter() - begun)
"""


def importing(rounds: int = 7) -> str:
    """`import jackfield` after torch, in fresh processes."""
    runs = [_run(_IMPORT) for _ in range(rounds)]
    seconds = statistics.median(float(run[0]) for run in runs)
    return (
        f"Median {seconds * 1e3:.1f} ms of {rounds} fresh processes; heavy imports: {runs[0][1]}."
    )


def loading(rounds: int = 5) -> str:
    """The second load of the default model, in fresh processes."""
    bare = [float(_run(_LOAD.format(imported=""))[0]) for _ in range(rounds)]
    warm = "from transformers import LlamaForCausalLM, PreTrainedTokenizerFast"
    imported = [float(_run(_LOAD.format(imported=warm))[0]) for _ in range(rounds)]
    return (
        f"Median {statistics.median(imported):.2f} s with transformers' Llama imported before, "
        f"{statistics.median(bare):.2f} s with its import counted ({rounds} fresh processes each)."
    )


def _run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")

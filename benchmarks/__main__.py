"""Runs every benchmark and writes RESULTS.md: `python -m benchmarks [part of a name …]`."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from inspect import getdoc
from pathlib import Path

import torch

from benchmarks import (
    approximations,
    behaviours,
    faithfulness,
    fidelity,
    guarding,
    learning,
    patching,
    reading,
    sparse_kernels,
    starting,
    steering,
    storing,
)

RESULTS = Path(__file__).parent / "RESULTS.md"
PARTS = {
    "Reading every resid_post of SmolLM2 (4 × 128 tokens)": reading.every_layer,
    "Reading only one layer": reading.one_layer,
    "Overhead a site (200 modules that do nothing)": reading.each_site,
    "Steered generation beside the peers": steering.generating,
    "A batch steered row by row": steering.rows,
    "Fitting a direction at every layer": steering.fitting,
    "Memory of fitting directions": steering.memory,
    "The KL asked for and the KL met": steering.realised,
    "Writing SmolLM2's residual streams to a store": storing.writing,
    "Writing beside SAELens' CacheActivationsRunner": storing.beside_saelens,
    "Reading a store, shuffled": storing.streaming,
    "Random rows of a store": storing.gathering,
    "Memory of writing and reading a store": storing.memory,
    "A training step of TopK beside the peers": learning.step,
    "What TopK reaches, beside SAELens": fidelity.reached,
    "TopK's loss and gradients, sparse codes": sparse_kernels.step,
    "Sparse products": sparse_kernels.parts,
    "A grid of patches, prompts that differ early": patching.early,
    "A grid of patches, prompts that differ late": patching.late,
    "Gradient methods against real patching": approximations.table,
    "Faithfulness of circuits by size": faithfulness.curves,
    "A guard that watches a generation": guarding.overhead,
    "Steering methods at the same KL": behaviours.table,
    "Import": starting.importing,
    "Second load of the default model": starting.loading,
}


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    wanted = [title for title in PARTS if not sys.argv[1:] or _asked(title)]
    written = [_head()]
    for title in wanted:
        print(title, file=sys.stderr, flush=True)
        written.append(f"## {title}\n\n{getdoc(PARTS[title]) or ''}\n\n{PARTS[title]()}")
        print(written[-1], flush=True)
    if len(wanted) == len(PARTS):
        RESULTS.write_text("\n\n".join(written) + "\n")


def _asked(title: str) -> bool:
    return any(word.lower() in title.lower() for word in sys.argv[1:])


def _head() -> str:
    packages = ("torch", "transformers", "nnsight", "transformer-lens", "sae-lens", "jackfield")
    packages += ("dictionary-learning", "eai-sparsify", "repeng", "steering-vectors")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        "# Results\n\nMade by `make bench`. Candidates take turns in one process; medians of "
        "rounds, and the median ratio of candidate to reference with a bootstrap interval.\n\n"
        f"- {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {_processor()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load before {load}\n"
        f"- Python {platform.python_version()}, {versions}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from source"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

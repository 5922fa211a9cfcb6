"""Storing: writing beside the bare forward, reading beside the disk and memory, peak memory."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import jackfield as jf
from benchmarks.timing import paired, table
from jackfield.streams import Batch, Stream

ROWS, WIDTH = 1_000_000, 576
TOKENS = 12_288


def writing(rounds: int = 4) -> str:
    """48 documents of 256 tokens through SmolLM2 to disk, beside the same forwards alone."""
    model = jf.load("smollm2")
    documents = _documents(model)
    options = {"where": "all", "keep_special": True}
    whole = model.stream(documents, ["layers.*.resid_post"], **options)
    one = model.stream(documents, ["layers.29.resid_post"], **options)

    def forward() -> None:
        with torch.no_grad():
            for ids in torch.stack(documents).split(8):  # as the stream batches them
                mask = torch.ones_like(ids)
                model.module.model(input_ids=ids, attention_mask=mask, use_cache=False)

    def written(stream: Stream) -> Callable[[], None]:
        def write() -> None:
            with tempfile.TemporaryDirectory() as folder:
                stream.write(folder + "/acts", dtype="bfloat16")

        return write

    candidates = {
        "forward only": forward,
        "one site written": written(one),
        "30 sites written": written(whole),
    }
    return table(paired(candidates, rounds=rounds), "ms")


def beside_saelens(rounds: int = 3) -> str:
    """16 documents of 256 tokens, one resid_post in float32, each from an open model."""
    if importlib.util.find_spec("sae_lens") is None:
        return "SAELens is not installed."
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    model = jf.load("smollm2")
    documents = _documents(model)[:16]
    options = {"where": "all", "keep_special": True}
    middle, last = (
        model.stream(documents, [f"layers.{layer}.resid_post"], **options) for layer in (15, 29)
    )
    folder = Path(tempfile.mkdtemp())
    model.module.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    given = Dataset.from_dict({"input_ids": [ids.tolist() for ids in documents]})
    number = iter(range(100))

    def made(layer: int) -> CacheActivationsRunner:
        config = CacheActivationsRunnerConfig(
            dataset_path="documents",
            model_name=str(folder / "model"),
            model_class_name="AutoModelForCausalLM",
            model_batch_size=8,
            hook_name=f"model.layers.{layer}",
            d_in=model.d_model,
            training_tokens=16 * 256,
            context_size=256,
            new_cached_activations_path=str(folder / f"acts{next(number)}"),
            shuffle=False,
            buffer_size_gb=16 * 256 * model.d_model * 4 / 1e9,  # one buffer: all the tokens
            device="cpu",
            prepend_bos=False,
            streaming=False,
        )
        return CacheActivationsRunner(config, override_dataset=given)

    # Made beforehand: making one loads the model.
    runners = {layer: [made(layer) for _ in range(rounds + 1)] for layer in (15, 29)}
    candidates: dict[str, Callable[[], object]] = {
        "jackfield, layer 29": lambda: last.write(folder / f"ours{next(number)}"),
        "SAELens, layer 29": lambda: runners[29].pop().run(),
        "jackfield, layer 15": lambda: middle.write(folder / f"ours{next(number)}"),
        "SAELens, layer 15": lambda: runners[15].pop().run(),
    }
    return table(paired(candidates, rounds=rounds))


def streaming() -> str:
    """Shuffled batches of 4096 rows (bfloat16, d = 576), cold and warm."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("JACKFIELD_BENCH_DISK")) as folder:
        store = _Known().write(folder + "/acts")
        lines = ["| | GB/s | share |", "|---|---|---|"]
        file_bytes = store.bytes("x")
        disk = [file_bytes / _cold(store, lambda: _sequential(store)) / 1e9 for _ in range(3)]
        cold = [file_bytes / _cold(store, lambda: _drain(store)) / 1e9 for _ in range(3)]
        copy = [_memcpy() for _ in range(5)]
        warm = [file_bytes / _timed(lambda: _drain(store)) / 1e9 for _ in range(5)]
        disk_, cold_, copy_, warm_ = (float(np.median(x)) for x in (disk, cold, copy, warm))
        lines += [
            f"| disk read in order, cold (8 MiB reads) | {disk_:.2f} | 1 |",
            f"| shuffled, cold | {cold_:.2f} | {cold_ / disk_:.2f} of the disk |",
            f"| memcpy, {torch.get_num_threads()} threads | {copy_:.2f} | 1 |",
            f"| shuffled, warm | {warm_:.2f} | {warm_ / copy_:.2f} of memcpy |",
        ]
        return "\n".join(lines)


def gathering() -> str:
    """4096 random rows of a million, cold: the store beside a NumPy memory map of these bytes."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("JACKFIELD_BENCH_DISK")) as folder:
        store = _Known().write(folder + "/acts")
        flat = Path(folder) / "flat.bin"
        with flat.open("wb") as file:
            for batch in store.stream("x"):
                file.write(batch["x"].view(torch.uint8).numpy().data)
            os.fsync(file.fileno())
        draw = torch.Generator().manual_seed(0)
        ours, theirs = [], []
        for _ in range(5):
            ids = torch.randint(0, ROWS, (4096,), generator=draw)
            ours.append(_cold(store, lambda ids=ids: store.rows_of("x", ids)))
            theirs.append(_cold(store, lambda ids=ids: _mapped(flat, ids), flat))
        one, other = float(np.median(ours)), float(np.median(theirs))
        return (
            "| | ms (median of 5) |\n|---|---|\n"
            f"| store | {one * 1e3:.0f} |\n| numpy.memmap | {other * 1e3:.0f} |\n\n"
            f"The store is {other / one:.1f} times as fast."
        )


def memory() -> str:
    """Peak resident memory of writing and of one shuffled pass, beyond what was there before."""
    lines = ["| | rows | GB written | peak MB above the start |", "|---|---|---|---|"]
    for title, code in _PEAKS.items():
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED + code], capture_output=True, text=True, check=True
        )
        rows, gigabytes, peak = done.stdout.split()[-3:]
        lines.append(f"| {title} | {int(rows):,} | {gigabytes} | {peak} |")
    return "\n".join(lines)


_MEASURED = """
import resource, shutil, sys, tempfile, threading
import torch, jackfield as jf
from benchmarks.storing import _Known
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) / 1e3
def measured(make):
    folder = tempfile.mkdtemp()
    stream = make()
    next(iter(stream))
    open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
    before = status("VmRSS")
    store = stream.write(folder + "/acts", dtype="bfloat16")
    for batch in store.stream(batch=4096, shuffle=True): pass
    print(store.rows, f"{store.bytes() / 1e9:.2f}", f"{status('VmHWM') - before:.0f}")
    shutil.rmtree(folder)
"""
_PEAKS = {
    "synthetic, d = 576": "measured(lambda: _Known(10_000_000))",
    "SmolLM2, layers 0 to 2 over the docs": (
        "m = jf.load('smollm2')\n"
        "measured(lambda: m.stream(jf.corpus('docs'), ['layers.0:3.resid_post'], "
        "max_tokens=300_000))"
    ),
}


class _Known(Stream):
    """Random rows, drawn from a fixed hundred thousand."""

    sites = ("x",)

    def __init__(self, rows: int = ROWS) -> None:
        self._count = rows
        draw = torch.Generator().manual_seed(0)
        self._rows = torch.randn(100_000, WIDTH, generator=draw).bfloat16()

    @property
    def rows(self) -> int:
        return self._count

    @property
    def provenance(self) -> dict[str, object]:
        return {"made": "benchmark", "rows": self._count}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for first in range(start, self._count, 8192):
            ids = torch.arange(first, min(first + 8192, self._count))
            yield Batch({"x": self._rows[ids % 100_000]}, ids % 50_000, ids // 256, ids % 256)


def _documents(model: jf.Model) -> list[torch.Tensor]:
    """Documents of 256 tokens each."""
    text = " ".join(document.text or "" for document in jf.corpus("docs", limit=400))
    ids = torch.tensor(model.tokenizer(text)["input_ids"][:TOKENS])
    return list(ids.split(256))


def _drain(store: jf.Store) -> None:
    for _ in store.stream("x", batch=4096, shuffle=True):
        pass


def _sequential(store: jf.Store) -> None:
    buffer = bytearray(8 << 20)
    for path in sorted(Path(store.path).glob("shards/x/*")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _mapped(flat: Path, ids: torch.Tensor) -> np.ndarray:
    rows = np.memmap(flat, dtype=np.int16, mode="r", shape=(ROWS, WIDTH))
    return rows[ids.numpy()]


def _memcpy() -> float:
    x = torch.ones(100_000, WIDTH, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    y.copy_(x)
    return 5 * x.nbytes / _timed(lambda: [y.copy_(x) for _ in range(5)]) / 1e9


def _cold(store: jf.Store, act: Callable[[], object], *more: Path) -> float:
    """Seconds of `act` once the files' pages are dropped from memory."""
    for path in [*(p for p in Path(store.path).rglob("*") if p.is_file()), *more]:
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)
    return _timed(act)


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun

"""`jackfield store` as a program sees it: stdout, exit codes, files."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from jackfield.cli import main
from jackfield.streams import Batch, Stream
from jackfield.streams.adapters import open_dataset
from jackfield.streams.texts import Text, Texts

# Cyclopts sees pytest and supposes that the arguments were forgotten; they are in sys.argv.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

SITE = "layers.3.z[head=1]"
WORDS = ("The", " harbour", " was", " quiet", ".")


class Told(Stream):
    """Two documents of five words, [row, 4]."""

    sites, rows, provenance = (SITE,), 10, {"context": 5}

    def batches(self, start=0):
        starts = torch.tensor([0, *map(len, WORDS[:-1])]).cumsum(0)
        documents = {n: Text("".join(WORDS), starts) for n in (0, 1)}
        number = torch.arange(10)
        x = {SITE: torch.arange(40.0).reshape(10, 4)}
        yield Batch(x, number % 5, number // 5, number % 5, {}, Texts(documents, WORDS)).rows(
            slice(start, None)
        )


@pytest.fixture
def path(tmp_path):
    return Told().write(tmp_path / "acts").path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["jackfield", "store", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return SimpleNamespace(returncode=stopped.value.code, stdout=shown.out, stderr=shown.err)

    return run_it


def test_help_names_every_command(run):
    shown = run("--help").stdout
    for command in ("info", "verify", "gc", "export", "text"):
        assert command in shown


def test_info_as_json_and_for_people(run, path):
    told = json.loads(run("info", path, "--json").stdout)
    assert (told["rows"], told["documents"], told["finished"]) == (10, 2, True)
    assert told["provenance"] == {"context": 5}
    (site,) = told["sites"]
    assert (site["site"], site["shape"], site["dtype"], site["codec"]) == (
        SITE, [4], "float32", "none"
    )  # fmt: skip
    assert "10 rows" in run("info", path).stdout


def test_verify_names_the_damaged_file_and_exits_1(run, path):
    sound = run("verify", path, "--json")
    assert (sound.returncode, json.loads(sound.stdout)) == (0, [])
    (shard,) = path.glob("shards/*/*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    done = run("verify", path, "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)
    assert problem["file"] == shard.relative_to(path).as_posix()
    assert "checksum" in problem["problem"]
    assert shard.name[:12] in run("verify", path).stdout


def test_gc_removes_what_nobody_names(run, path):
    left = path / "rows" / "r0000-000009-abcdef.parquet"
    left.write_bytes(b"left by a killed writer")
    assert json.loads(run("gc", path, "--json").stdout) == [f"rows/{left.name}"]
    assert not left.exists()
    assert run("gc", path).stdout == ""
    assert run("verify", path).returncode == 0


def test_text_marks_the_token(run, path):
    shown = run("text", path, 6, "--before", 1, "--after", 2)
    assert shown.stdout == "The« harbour» was quiet\n"
    told = json.loads(run("text", path, 6, "--before", 0, "--after", 0, "--json").stdout)
    assert told == {
        "before": "", "token": " harbour", "after": "", "document": 1, "position": 1
    }  # fmt: skip
    assert run("text", path, 10).returncode == 2


def test_export_renames_and_says_where(run, path, tmp_path):
    out = tmp_path / "out"
    done = run(
        "export", path, out, "--format", "saelens", "--sites", f"{SITE}=blocks.3.attn.hook_z"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    batch = open_dataset(out).collect()
    assert torch.equal(batch["blocks.3.attn.hook_z"], torch.arange(40.0).reshape(10, 4))
    assert batch.documents.tolist() == [0] * 5 + [1] * 5
    assert (
        run("export", path, tmp_path / "npy", "--format", "numpy", "--sites", SITE).returncode == 0
    )
    assert open_dataset(tmp_path / "npy").sites == (SITE,)


def test_bad_input_is_one_line_and_exit_2(run, path, tmp_path):
    for done in (
        run("info", tmp_path / "nowhere"),
        run("export", path, path, "--format", "numpy"),
        run("export", path, tmp_path / "o", "--format", "numpy", "--sites", "layers.3.w"),
    ):
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
    assert run("export", path, tmp_path / "o", "--format", "zip").returncode == 2

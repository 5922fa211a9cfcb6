"""The loop: a run that stops goes on to the same bits, and Ctrl-C never cuts a step in two."""

import json
import signal

import pytest
import torch
from tests.dictionaries.plain import Stopping

from jackfield.core.errors import ArtifactError, ConfigError, InputError
from jackfield.dictionaries import TopK, checkpoints
from jackfield.dictionaries.run import Learner, Plan
from jackfield.dictionaries.training import train
from jackfield.streams import Stream

CONFIG = TopK(latents=24, k=4, rows=3000, batch=128, dead_after=500)  # three epochs, dead latents
QUIET = {"progress": False}


@pytest.fixture
def x():
    return torch.randn(1100, 12)


class Sums(Learner):
    """Adds up what it sees; each batch counts by when it came."""

    def __init__(self, press: int = -1, diverge: bool = False) -> None:
        self.press, self.diverge = press, diverge
        self.total = torch.zeros(())
        self.steps = torch.zeros((), dtype=torch.int64)

    def start(self, rows):
        self.first = rows["x"]

    def step(self, rows, done):
        self.steps += 1
        if self.steps == self.press:
            signal.raise_signal(signal.SIGINT)
        self.total += rows["x"].sum() * self.steps

    def look(self):
        return {"FVU": float("nan") if self.diverge else 1.0}

    def state(self):
        return {"total": self.total, "steps": self.steps}

    def restore(self, state):
        self.total, self.steps = state["total"].clone(), state["steps"].clone()


def plan(rows: int, batch: int = 10) -> Plan:
    return Plan("Sums at x", ("x",), rows, batch, 0, {"Sums": {"rows": rows}})


def weights(sae):
    return sae.state()[1]


def assert_same(one, other):
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    assert one.history == other.history


@pytest.mark.parametrize("after", [2, 14, 25], ids=["first epoch", "second", "third"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(x, tmp_path, capsys, after):
    stream = Stream.from_tensor(x, batch=100)
    whole = CONFIG.fit(stream, **QUIET)
    path = tmp_path / "checkpoint"
    stopping = Stopping(stream, after, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        CONFIG.fit(stopping, checkpoint=path, **QUIET)
    said = capsys.readouterr().err
    if after > 11:  # in the first epoch the mixing buffer is still filling: nothing was learned
        assert "TopK at x: stopped after" in said
        assert f"checkpoint='{path}'" in said
    else:
        assert not path.exists()
    assert_same(CONFIG.fit(stream, checkpoint=path, **QUIET), whole)


def test_many_stops_make_no_difference(x, tmp_path):
    stream = Stream.from_tensor(x, batch=100)
    whole = CONFIG.fit(stream, **QUIET)
    for _ in range(5):
        try:
            stopping = Stopping(stream, 30, KeyboardInterrupt)
            sae = CONFIG.fit(stopping, checkpoint=tmp_path / "c", **QUIET)
            break
        except KeyboardInterrupt:
            continue
    assert_same(sae, whole)


def test_a_crash_goes_back_to_the_last_checkpoint(x, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SAVE_EVERY", 0.0)
    stream = Stream.from_tensor(x, batch=100)
    whole = CONFIG.fit(stream, **QUIET)
    with pytest.raises(OSError, match="unplugged"):
        CONFIG.fit(Stopping(stream, 20, OSError), checkpoint=tmp_path / "c", **QUIET)
    assert_same(CONFIG.fit(stream, checkpoint=tmp_path / "c", **QUIET), whole)


def test_ctrl_c_waits_for_the_end_of_a_step(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    stream = Stream.from_tensor(torch.arange(200.0)[:, None], batch=50)
    whole, stopped, resumed = Sums(), Sums(press=7), Sums()
    train(whole, stream, plan(500), checkpoint=None, resume=True, **QUIET)
    path = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        train(stopped, stream, plan(500), checkpoint=path, resume=True, **QUIET)
    assert "stopped after 70 of 500 rows" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    train(resumed, stream, plan(500), checkpoint=path, resume=True, **QUIET)
    assert torch.equal(resumed.total, whole.total)
    assert resumed.steps == 50


def test_ctrl_c_without_a_checkpoint_says_nothing(capsys):
    stream = Stream.from_tensor(torch.ones(100, 1))
    with pytest.raises(KeyboardInterrupt):
        train(Sums(press=3), stream, plan(100), checkpoint=None, resume=True, **QUIET)
    assert capsys.readouterr().err == ""


def test_a_run_that_is_done_is_not_done_again(x, tmp_path):
    stream = Stream.from_tensor(x)
    sae = CONFIG.fit(stream, checkpoint=tmp_path / "c", **QUIET)
    again = CONFIG.fit(Stopping(stream, 1, AssertionError), checkpoint=tmp_path / "c", **QUIET)
    assert_same(again, sae)


def test_a_checkpoint_of_another_run_is_refused(x, tmp_path):
    path = tmp_path / "c"
    CONFIG.fit(Stream.from_tensor(x), checkpoint=path, **QUIET)
    other = TopK(latents=24, k=5, rows=3000, batch=128)
    with pytest.raises(ArtifactError, match="another TopK"):
        other.fit(Stream.from_tensor(x), checkpoint=path, **QUIET)
    with pytest.raises(ArtifactError, match="another stream"):
        CONFIG.fit(Stream.from_tensor(x + 1), checkpoint=path, **QUIET)
    fresh = other.fit(Stream.from_tensor(x), checkpoint=path, resume=False, **QUIET)
    assert_same(fresh, other.fit(Stream.from_tensor(x), **QUIET))


def test_a_checkpoint_is_not_written_over_something_else(x, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ArtifactError):
        CONFIG.fit(Stream.from_tensor(x), checkpoint=tmp_path, **QUIET)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_damaged_checkpoint_is_said(x, tmp_path):
    path = tmp_path / "c"
    CONFIG.fit(Stream.from_tensor(x), checkpoint=path, **QUIET)
    (path / "tensors.safetensors").write_bytes(b"not what it was")
    with pytest.raises(ArtifactError, match="a folder that Jackfield saved"):
        CONFIG.fit(Stream.from_tensor(x), checkpoint=path, **QUIET)


def test_a_checkpoint_is_json_and_safetensors(x, tmp_path):
    CONFIG.fit(Stream.from_tensor(x), checkpoint=tmp_path / "c", **QUIET)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "jackfield.json",
        "tensors.safetensors",
    ]
    header = json.loads((tmp_path / "c" / "jackfield.json").read_text())
    assert header["extra"]["runs"][0]["step"] == 3000 // 128


def test_every_row_is_seen_once_an_epoch():
    """Whole batches only; what is left of an epoch is dropped, other rows each time."""
    seen = []

    class Noting(Sums):
        def step(self, rows, done):
            seen.append((rows["x"][:, 0].tolist(), done))

    stream = Stream.from_tensor(torch.arange(25.0)[:, None])
    train(Noting(), stream, plan(60), checkpoint=None, resume=True, **QUIET)
    epochs = [seen[i][0] + seen[i + 1][0] for i in (0, 2, 4)]
    assert all(len(set(rows)) == 20 for rows in epochs)
    assert epochs[0] != epochs[1]
    assert [done for _, done in seen] == pytest.approx([(i + 0.5) / 6 for i in range(6)])


def test_a_loss_that_is_not_finite_ends_the_run():
    stream = Stream.from_tensor(torch.ones(100, 1))
    with pytest.raises(
        ConfigError, match=r"a finite loss, got nan after 10 rows .step 1.. Lower learning"
    ):
        train(Sums(diverge=True), stream, plan(100), checkpoint=None, resume=True, **QUIET)


def test_an_empty_stream_is_said():
    class Empty(Stopping):
        def batches(self, start=0):
            return iter(())

    stream = Empty(Stream.from_tensor(torch.ones(1, 1)), 0, OSError)
    with pytest.raises(InputError, match=r"at least 10 rows \(one batch\), got 0"):
        train(Sums(), stream, plan(100), checkpoint=None, resume=True, **QUIET)


def test_progress_shows_rate_and_figures(x, capsys):
    CONFIG.fit(Stream.from_tensor(x))
    line = capsys.readouterr().err
    assert "TopK at x: 2,944/2,944 rows" in line
    assert "rows/s" in line
    assert "FVU 0." in line
    assert "dead" in line

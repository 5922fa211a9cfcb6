import pytest
import torch

from jackfield.core.errors import InputError, SiteError
from jackfield.streams import Batch, Moments, Sink, Stream


def rows(count, width=3):
    return torch.arange(count * width, dtype=torch.float32).reshape(count, width)


class Recorder(Sink[list[int]]):
    def __init__(self, site):
        self.site, self.sizes = site, []

    @property
    def sites(self):
        return (self.site,)

    def update(self, batch):
        self.sizes.append(len(batch))

    def finish(self):
        return self.sizes


class Broken(Stream):
    """Rows whose width changes: a site such as `pattern`."""

    sites = ("x",)
    rows = None
    provenance = {}  # noqa: RUF012

    def batches(self, start=0):
        for width in (2, 3):
            yield Batch({"x": torch.ones(4, width)}, None, torch.zeros(4), torch.zeros(4))


def test_a_batch_must_be_aligned():
    with pytest.raises(InputError, match=r"5 rows everywhere.*'x': 4"):
        Batch({"x": rows(4)}, None, torch.zeros(5), torch.zeros(5))


def test_a_batch_names_the_nearest_site():
    batch = Batch({"layers.1.z": rows(4)}, None, torch.zeros(4), torch.zeros(4))
    with pytest.raises(SiteError, match=r"Did you mean layers\.1\.z"):
        batch["layers.1.zz"]


def test_rows_chooses_everything_alike():
    batch = Stream.from_tensor(rows(6), tokens=torch.arange(6) * 10).collect()
    chosen = batch.rows(torch.tensor([4, 1]))
    assert torch.equal(chosen["x"], rows(6)[[4, 1]])
    assert chosen.tokens.tolist() == [40, 10]
    assert chosen.documents.tolist() == [4, 1]


def test_one_pass_feeds_all_sinks():
    passes = []

    class Watched(Stream):
        sites = ("a", "b")
        rows = 10
        provenance = {}  # noqa: RUF012

        def batches(self, start=0):
            passes.append(1)
            return iter(Stream.from_tensor({"a": rows(10), "b": rows(10, 2)}, batch=4))

    moments, sizes, other = Watched().into(Moments("a"), Recorder("b"), Recorder("a"))
    assert passes == [1]
    assert moments.rows == 10
    assert sizes == other == [4, 4, 2]


def test_a_single_sink_gives_its_own_result():
    assert Stream.from_tensor(rows(5), batch=2).into(Recorder("x")) == [2, 2, 1]


def test_a_sink_on_a_missing_site_is_refused_before_the_pass():
    recorder = Recorder("x")
    with pytest.raises(SiteError, match=r"Recorder on a stream.*'y'"):
        Stream.from_tensor(rows(5)).into(recorder, Recorder("y"))
    assert recorder.sizes == []


def test_into_needs_a_sink():
    with pytest.raises(InputError, match="at least one sink"):
        Stream.from_tensor(rows(5)).into()


def test_collect_of_rows_that_vary_in_length_is_refused():
    with pytest.raises(InputError, match=r"x: expected rows of shape .2. in every batch"):
        Broken().collect()


def test_a_stream_prints_its_rows_and_sites():
    stream = Stream.from_tensor({f"layers.{i}.z": rows(5) for i in range(5)})
    assert repr(stream) == "Stream(5 rows of 5 sites: layers.0.z, layers.1.z, layers.2.z, …)"


def test_progress_counts_rows(capsys):
    Stream.from_tensor(rows(5), batch=2).into(Recorder("x"), progress=True)
    assert "5/5 rows" in capsys.readouterr().err

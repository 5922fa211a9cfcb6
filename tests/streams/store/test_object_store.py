"""A store on S3, spoken to over HTTP: a real client (s3fs) and a real server (moto's)."""

import logging

import pytest
import torch

from jackfield.core.errors import ArtifactError
from jackfield.streams import Store, Stream
from jackfield.streams.store.remote import RemoteFiles

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")
ROWS = 500


@pytest.fixture(scope="module")
def bucket():
    """The URL of an empty bucket, and what a client needs to reach it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "a", "secret": "b"}
    import s3fs

    s3fs.S3FileSystem(**options).mkdir("acts")
    yield "s3://acts", options
    running.stop()


@pytest.fixture(scope="module")
def made():
    x = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    return Stream.from_tensor(x, batch=60, columns={"k": torch.arange(ROWS)})


@pytest.fixture(scope="module")
def store(bucket, made):
    url, options = bucket
    files = RemoteFiles(f"{url}/one", **options)
    return made.write(files, commit_rows=130)


def test_what_was_written_is_read(store, made, bucket):
    url, options = bucket
    again = Store(RemoteFiles(f"{url}/one", **options))
    truth = made.collect()["x"]
    assert again.finished
    assert torch.equal(again.stream().collect()["x"], truth)
    assert torch.equal(again["x"][[499, 3, 130]], truth[[499, 3, 130]])
    found = torch.cat([b.columns["k"] for b in again.stream(batch=64, shuffle=True)])
    assert torch.equal(found.sort().values, torch.arange(ROWS))
    assert again.where("k between 7 and 9").tolist() == [7, 8, 9]
    assert again.verify() == []
    assert again.gc() == []


def test_a_name_is_given_once(bucket):
    """What commits rest on: of two who create one name, the store refuses one."""
    url, options = bucket
    files = RemoteFiles(f"{url}/two", **options)
    assert files.create("manifest/000000.json", b"first")
    assert not files.create("manifest/000000.json", b"second")
    assert files.read("manifest/000000.json") == b"first"


def test_damage_on_the_store(bucket, made):
    url, options = bucket
    files = RemoteFiles(f"{url}/three", **options)
    store = made.write(files, commit_rows=130)
    name = files.names("shards/x")[1]
    data = bytearray(files.read(name))
    data[-1] ^= 1
    files.write(name, [bytes(data)])
    (problem,) = store.verify()
    assert problem.startswith(name)
    with pytest.raises(ArtifactError, match="checksums of 1 rows differ"):
        Store(files)["x"][130:260]
    assert torch.equal(Store(files)["x"][:130], made.collect()["x"][:130])
    files.remove(name)
    with pytest.raises(ArtifactError, match="it is missing"):
        Store(files)["x"][130:260]

"""Reading with Ray: the same rows whoever reads them, and whichever workers die meanwhile."""

import os
import random
import signal
from pathlib import Path

import pytest
import torch

import jackfield as jf
from jackfield.core.errors import ArtifactError, InputError, ModelError
from jackfield.engines import Ray
from jackfield.engines import ray as engine
from jackfield.testing import tiny_llama

# Ray leaves sockets to its own shutdown, and its client warns of settings to come.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
WORDS = "the cat saw a small dog near an old harbour and slept".split()
TEXTS = [" ".join(WORDS[: 3 + i % 9]) for i in range(90)]


@pytest.fixture(scope="module")
def running():
    """One Ray for all tests; the engine finds it running."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    model = tiny_llama(texts=[" ".join(WORDS)])
    model.module.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    loaded = jf.load(folder / "model")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    corpus = jf.corpus(folder / "texts.txt", split="line")
    return loaded.stream(corpus, ["layers.*.resid_post", "layers.1.mlp_post"])


def truth(stream):
    """The rows by document and position, read in this process."""
    return keyed(stream.collect())


def keyed(batch):
    return batch.rows((batch.documents * 1000 + batch.positions).argsort())


def assert_same(store, stream):
    found, right = keyed(store.stream().collect()), truth(stream)
    assert torch.equal(found.documents, right.documents)
    assert torch.equal(found.positions, right.positions)
    assert torch.equal(found.tokens, right.tokens)
    for site in right.sites:
        torch.testing.assert_close(found[site], right[site], atol=1e-5, rtol=1e-5)
    assert store.finished
    assert store.verify() == []
    assert store.documents[7].text == TEXTS[7]


class Killing(engine._Crew):
    """A crew of which one worker is killed (SIGKILL) whenever spans have come in."""

    kills = 2
    draw = random.Random(0)

    def read(self, starts, size):
        for groups in super().read(starts, size):
            yield groups
            if self.kills:
                self.kills -= 1
                os.kill(self.draw.choice(readers()), signal.SIGKILL)


def readers():
    """The processes that hold a reader."""
    names = {path: (path / "cmdline").read_bytes() for path in Path("/proc").glob("[0-9]*")}
    return [int(path.name) for path, name in names.items() if name.startswith(b"ray::_Reader")]


def test_workers_are_killed_and_nothing_is_lost(running, stream, tmp_path, monkeypatch):
    """Two workers, both killed once or more; order and numbers are those of an untroubled run."""
    quiet = Ray(workers=1, documents=7).write(stream, tmp_path / "quiet", dtype="float32")
    monkeypatch.setattr(engine, "_Crew", Killing)
    store = Ray(workers=2, documents=7).write(stream, tmp_path / "acts", dtype="float32")
    assert_same(store, stream)
    one, other = quiet.stream().collect(), store.stream().collect()
    for site in one.sites:
        assert torch.equal(one[site], other[site])
    assert torch.equal(one.documents, other.documents)
    store.gc()
    assert_same(jf.Store(tmp_path / "acts"), stream)


@pytest.mark.slow
def test_a_stopped_driver_goes_on(running, stream, tmp_path, monkeypatch):
    class Stopped(engine._Crew):
        def read(self, starts, size):
            for number, groups in enumerate(super().read(starts, size)):
                if number == 3:
                    raise KeyboardInterrupt
                yield groups

    ray = Ray(workers=2, documents=10)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_Crew", Stopped)
        with pytest.raises(KeyboardInterrupt):
            ray.write(stream, tmp_path / "acts")
    half = jf.Store(tmp_path / "acts")
    assert sorted(set(half.stream().collect().documents.tolist())) == list(range(30))
    assert not half.finished
    assert_same(ray.write(stream, tmp_path / "acts", resume=True), stream)
    with pytest.raises(ArtifactError, match="provenance"):  # another order of rows
        stream.write(tmp_path / "acts", resume=True)
    with pytest.raises(ArtifactError, match="provenance"):
        Ray(documents=11).write(stream, tmp_path / "acts", resume=True)


@pytest.mark.slow
def test_a_number_of_rows(running, stream, tmp_path):
    some = type(stream).from_recipe(
        {**stream.recipe(), "options": {**stream.recipe()["options"], "max_tokens": 77}}
    )
    store = Ray(workers=2, documents=4).write(some, tmp_path / "acts")
    assert store.rows == 77
    assert store.finished


@pytest.mark.slow
def test_a_worker_that_always_dies(running, stream, tmp_path, monkeypatch):
    def read(self, first, stop, limit):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(engine._Reader, "read", read)
    with pytest.raises(ModelError, match=r"documents from 0: .*lives through.*2 that died"):
        Ray(workers=1, documents=10, attempts=2).write(stream, tmp_path / "acts")


def test_what_other_processes_cannot_make(tmp_path):
    wrapped = tiny_llama(texts=TEXTS)
    with pytest.raises(InputError, match="wrapped module"):
        Ray().write(wrapped.stream(TEXTS, ["layers.0.resid_post"]), tmp_path / "acts")

"""`jackfield fit` and `jackfield features` as a program sees them: stdout, exit codes, files."""

import sys
from types import SimpleNamespace

import pytest
import torch

from jackfield import catalogue
from jackfield.cli import main
from jackfield.dictionaries import Dictionary, FeatureIndex, TopK
from jackfield.streams import Batch, Store, Stream
from jackfield.streams.texts import Text, Texts

# Cyclopts sees pytest and supposes that the arguments were forgotten; they are in sys.argv.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

SITES = ("layers.3.resid_post", "layers.3.z")
WORDS = ("The", " harbour", " was", " quiet", ".")
ROWS = 400


class Told(Stream):
    """Documents of five words; [row, 8] and, with its heads, [row, 2, 4]."""

    sites, rows, provenance = SITES, ROWS, {"context": 5}

    def batches(self, start=0):
        starts = torch.tensor([0, *map(len, WORDS[:-1])]).cumsum(0)
        number = torch.arange(ROWS)
        documents = {n: Text("".join(WORDS), starts) for n in range(ROWS // 5)}
        x = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
        held = {SITES[0]: x, SITES[1]: x.flip(0).view(ROWS, 2, 4)}
        texts = Texts(documents, WORDS)
        batch = Batch(held, number % 5, number // 5, number % 5, {}, texts)
        yield batch.rows(slice(start, None))


@pytest.fixture
def store(tmp_path):
    return Told().write(tmp_path / "acts").path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["jackfield", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return SimpleNamespace(returncode=stopped.value.code, stdout=shown.out, stderr=shown.err)

    return run_it


SMALL = ("--latents", 12, "--k", 2, "--rows", 900, "--batch", 100)


def test_fit_saves_what_the_method_fits(run, store, tmp_path):
    done = run("fit", "topk", store, "--site", SITES[0], *SMALL, "--out", tmp_path / "sae")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'sae'}\n")
    method = TopK(latents=12, k=2, rows=900, batch=100)
    expected = method.fit(Store(store).stream(SITES[0]), progress=False)
    found = Dictionary.load(tmp_path / "sae")
    assert torch.equal(found.directions, expected.directions)
    assert not (tmp_path / "sae.checkpoint").exists()


def test_a_stopped_fit_keeps_its_checkpoint_and_goes_on(run, store, tmp_path, monkeypatch):
    import jackfield.dictionaries.learner as learner

    step, steps = learner.SparseLearner.step, []

    def stops(self, *given):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        step(self, *given)

    command = ("fit", "topk", store, "--site", SITES[0], *SMALL, "--out", tmp_path / "sae")
    monkeypatch.setattr(learner.SparseLearner, "step", stops)
    done = run(*command)
    assert done.returncode == 130
    assert "the same command goes on" in done.stderr.replace("\n", " ")
    assert (tmp_path / "sae.checkpoint").exists()
    assert not (tmp_path / "sae").exists()
    assert run(*command).returncode == 0
    assert len(steps) == 4 + 9 - 3, "three steps were kept"


def test_a_folder_that_is_in_use_is_told_before_the_fit(run, store, tmp_path):
    (tmp_path / "sae").mkdir()
    done = run("fit", "topk", store, "--site", SITES[0], "--out", tmp_path / "sae")
    assert done.returncode == 2
    assert "a new folder, or one that holds an artifact" in done.stderr
    assert "rows/s" not in done.stderr


def test_heads_are_fitted_side_by_side(run, store, tmp_path):
    done = run("fit", "topk", store, "--site", SITES[1], *SMALL, "--out", tmp_path / "sae")
    assert done.returncode == 0, done.stderr
    assert Dictionary.load(tmp_path / "sae").directions.shape == (12, 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("topq", "acts"), "Did you mean topk"),
        (("topk", "acts"), "expected a stream of one site"),
        (("topk", "acts", "--site", "layers.9.z"), "layers.3.z"),
        (("topk", "acts", "--site", SITES[0], "--k", "5000"), "expected k <= latents"),
        (("topk", "acts", "--site", SITES[0], "--k", "-1"), "'k'"),
        (("topk", "nothing", "--site", SITES[0]), "nothing"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, store, tmp_path, arguments, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("fit", *arguments, "--out", "sae")
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "sae").exists()


def test_a_wrong_option_is_told_by_name(run, store, tmp_path):
    done = run("fit", "topk", store, "--out", tmp_path / "sae", "--latent", 5)
    assert done.returncode == 2
    assert "--latents" in done.stdout + done.stderr


def test_every_dictionary_of_the_catalogue_is_a_command(run):
    listed = run("fit").stdout
    records = [r for r in catalogue.records() if (r.chapter, r.kind) == ("dictionaries", "method")]
    assert records
    for record in records:
        assert record.name in listed


def test_the_options_of_a_method_are_its_settings(run):
    shown = run("fit", "sae-jump-relu", "--help").stdout
    for option in ("--out", "--site", "--latents", "--penalty", "--seed"):
        assert option in shown


def test_features_writes_pages_with_the_words_of_the_store(run, store, tmp_path):
    run("fit", "topk", store, "--site", SITES[0], *SMALL, "--out", tmp_path / "sae")
    done = run(
        "features", tmp_path / "sae", store, "--out", tmp_path / "pages", "--index", tmp_path / "ix"
    )
    assert done.returncode == 0, done.stderr
    listed = tmp_path / "pages" / "index.html"
    assert done.stdout == f"{listed}\n"
    assert "12 features at layers.3.resid_post" in listed.read_text()
    index = FeatureIndex.load(tmp_path / "ix")
    best = index.excerpts(3)[0]
    assert best.tokens[best.peak].says == WORDS[best.tokens[best.peak].position]
    again = run("features", tmp_path / "sae", store, "--out", tmp_path / "pages")
    assert again.returncode == 2
    assert "a new or empty folder" in again.stderr

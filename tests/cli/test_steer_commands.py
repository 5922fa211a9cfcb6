"""`jackfield steer …` as a program sees it: stdout, exit codes, files; on the real model."""

import sys

import pytest
import torch

import jackfield as jf
from jackfield.cli import main
from jackfield.steering import JOYFUL, SORROWFUL, MeanDifference, SteeringVector

# Cyclopts sees pytest and supposes that the arguments were forgotten; they are in sys.argv.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

AT = "layers.20.resid_post"


@pytest.fixture
def run(monkeypatch, capsys, smollm2):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["jackfield", "steer", *map(str, arguments)])
        monkeypatch.setattr("jackfield.load", lambda name: smollm2)
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run_it


@pytest.fixture(scope="module")
def glad(tmp_path_factory, request):
    smollm2 = request.getfixturevalue("smollm2")
    sides = {"positive": JOYFUL[:6], "negative": SORROWFUL[:6]}
    return MeanDifference().fit(smollm2, **sides, at=AT).save(tmp_path_factory.mktemp("s") / "glad")


def test_fit_reads_two_files_and_saves_what_python_fits(run, smollm2, tmp_path):
    for name, texts in (("plus", JOYFUL[:6]), ("minus", SORROWFUL[:6])):
        (tmp_path / name).write_text("\n".join(texts) + "\n\n")
    files = ("--positive", tmp_path / "plus", "--negative", tmp_path / "minus")
    code, out, err = run("fit", "paired-pca", *files, "--at", AT, "--out", tmp_path / "glad")
    assert (code, out) == (0, f"{tmp_path / 'glad'}\n")
    assert "PairedPCA" in err
    sides = {"positive": JOYFUL[:6], "negative": SORROWFUL[:6]}
    expected = jf.steering.PairedPCA().fit(smollm2, **sides, at=AT)
    assert SteeringVector.load(tmp_path / "glad").vector.equal(expected.vector)


def test_of_several_layers_the_best_is_kept_and_all_are_shown(run, tmp_path):
    given = ("--behaviour", "sentiment", "--at", "layers.19:21.resid_post")
    code, out, _ = run("fit", *given, "--out", tmp_path / "glad")
    assert code == 0
    assert "layers.19.resid_post" in out
    assert "layers.20.resid_post" in out
    assert SteeringVector.load(tmp_path / "glad").at in ("layers.19.resid_post", AT)


@pytest.fixture
def sides(tmp_path):
    """Two files of texts, as arguments."""
    for name, texts in (("plus", JOYFUL[:8]), ("minus", SORROWFUL[:8])):
        (tmp_path / name).write_text("\n".join(texts))
    return "--positive", tmp_path / "plus", "--negative", tmp_path / "minus"


def test_fit_takes_methods_that_make_no_direction(run, sides, smollm2, tmp_path):
    code, out, err = run("fit", "ot-map", *sides, "--at", AT, "--out", tmp_path / "map")
    assert (code, out) == (0, f"{tmp_path / 'map'}\n")
    assert "OTMap at layers.20.resid_post of smollm2" in " ".join(err.split())
    given = {"positive": JOYFUL[:8], "negative": SORROWFUL[:8], "at": AT}
    (expected,) = jf.steering.OTMap().fit(smollm2, **given).edits(0.5)
    (found,) = jf.steering.Steering.load(tmp_path / "map").edits(0.5)
    prompt = "The day was"
    logits = [smollm2.run(prompt, edits=[edit]).logits for edit in (expected, found)]
    assert torch.equal(*logits)


def test_a_filter_is_fitted_and_guards(run, sides, tmp_path):
    code, _, _ = run("fit", "linear-filter", *sides, "--at", AT, "--out", tmp_path / "filter")
    assert code == 0
    prompts = (JOYFUL[9], SORROWFUL[9])
    given = ("guard", tmp_path / "filter", *prompts, "--max-new-tokens", 2)
    code, out, _ = run(*given, "--threshold", -1e9)
    assert code == 0
    assert "2 of 2 rows passed" in " ".join(out.split())
    _, out, _ = run(*given, "--threshold", 1e9, "--action", "log")
    assert "0 of 2 rows passed" in " ".join(out.split())


@pytest.mark.slow
def test_methods_are_compared(run, tmp_path):
    methods = ("--methods", "mean-difference", "ot-map", "--behaviours", "sentiment")
    code, out, err = run("table", *methods, "--out", tmp_path / "table.json")
    assert code == 0
    assert "sentiment: mean-difference" in out
    assert (tmp_path / "table.json").exists()
    assert "Written to" in err


def test_run_says_the_dose_and_steers(run, glad):
    code, out, err = run(
        "run", glad, "The weather today is", "--strength", "norm:0.2", "--max-new-tokens", 3
    )
    assert code == 0
    assert out.strip()
    assert "nats a token on plain prose" in err


def test_export_is_read_back(run, glad, smollm2, tmp_path):
    code, out, _ = run("export", glad, tmp_path / "glad.gguf", "--strength", "2")
    assert (code, out) == (0, f"{tmp_path / 'glad.gguf'}\n")
    (again,) = jf.steering.formats.read_gguf(tmp_path / "glad.gguf", smollm2)
    assert again.vector.allclose(2 * SteeringVector.load(glad).vector)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--out", "x"), "--behaviour, or --positive and --negative, got neither"),
        (("fit", "--behaviour", "sentimnt", "--out", "x"), "Did you mean sentiment?"),
        (
            ("fit", "ot-map", "--behaviour", "sentiment", "--out", "x"),
            "steer fit OTMap: expected --at SITE, where it acts, got none",
        ),
        (("run", "no-such-folder", "Hi"), "no-such-folder"),
        (("guard", "no-such-folder", "Hi"), "no-such-folder"),
    ],
)
def test_a_wrong_argument_gives_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())

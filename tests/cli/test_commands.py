"""The command line as a program sees it: stdout, exit codes, what is imported."""

import json
import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from jackfield.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_command_and_imports_no_torch() -> None:
    code = (
        "import sys; from jackfield.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in ("demo", "models", "sites", "read", "doctor", "methods", "generate"):
        assert command in shown
    assert shown.rstrip().endswith("[]")


@pytest.mark.parametrize("command", ["demo", "models", "sites", "read", "doctor", "methods"])
def test_each_command_explains_its_parameters(command: str) -> None:
    shown = run(command, "--help")
    assert shown.returncode == 0
    assert f"jackfield {command}" in shown.stdout


def test_wrong_command_suggests_one_and_exits_2() -> None:
    done = run("sits")
    assert done.returncode == 2
    assert "sites" in done.stdout + done.stderr


def test_wrong_option_exits_2() -> None:
    assert run("models", "--jsn").returncode == 2


def test_models_as_json() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in listed] == ["smollm2", "minilm", "mobilenet_v2"]


def test_sites_of_one_layer_as_json(smollm2: object) -> None:
    done = run("sites", "smollm2", "--layer", "3", "--json")
    rows = {row["site"]: row for row in json.loads(done.stdout)}
    assert rows["layers.3.z"]["axes"] == "batch position head d_head"
    assert "rebuilt" in rows["layers.3.pattern"]["can"]


def test_bad_input_is_one_line_on_stderr_and_exit_2(smollm2: object) -> None:
    done = run("sites", "smollm2", "--layer", "99")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "expected a layer from 0 to 29" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_model_names_the_embedded_ones() -> None:
    done = run("sites", "smolm2")
    assert done.returncode == 2
    assert "smollm2" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_prints_the_continuation(smollm2: object) -> None:
    done = run("generate", "The capital of France is", "--max-new-tokens", "2")
    assert done.stdout.startswith(" Paris")


def test_read_writes_a_store(tmp_path: object, smollm2: object) -> None:
    import jackfield as jf

    out = f"{tmp_path}/acts"
    text = f"{tmp_path}/text.txt"
    with open(text, "w") as file:  # noqa: PTH123
        file.write("The harbour was quiet when the first boats came in.\n\nShe opened the letter.")
    done = run("read", "smollm2", text, "--sites", "layers.2.resid_post", "--out", out)
    assert done.returncode == 0, done.stderr
    store = jf.Store(out)
    assert store.sites == ("layers.2.resid_post",)
    assert 10 < store.rows < 30


def test_methods_lists_the_catalogue_and_tells_one() -> None:
    listed = {row["name"] for row in json.loads(run("methods", "--json").stdout)}
    assert len(listed) >= 7
    told = run("methods", sorted(listed)[0])
    assert told.returncode == 0
    assert run("methods", "no-such-method").returncode == 2

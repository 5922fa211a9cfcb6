from types import SimpleNamespace

import pytest

from jackfield.core.errors import SourceError
from jackfield.model.hub import hub_snapshot


@pytest.fixture
def client(monkeypatch):
    """Stands in for the hub's client: answers with a folder, or raises."""
    import huggingface_hub

    asked = []

    def answer_with(result):
        def snapshot_download(name, **options):
            asked.append((name, options))
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answer_with


def refusal(kind):
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("long story\nof many lines", response=response)


def test_folder_is_that_of_the_commit(client, tmp_path):
    asked = client(str(tmp_path / "0123abc"))
    assert hub_snapshot("org/model", revision="main") == tmp_path / "0123abc"
    [(name, options)] = asked
    assert (name, options["revision"]) == ("org/model", "main")


def test_code_and_pickles_are_fetched_only_when_asked(client, tmp_path):
    asked = client(str(tmp_path))
    hub_snapshot("org/model")
    hub_snapshot("org/model", code=True)
    patterns = [options["allow_patterns"] for _, options in asked]
    assert ["*.py" in allowed for allowed in patterns] == [False, True]
    assert not any("bin" in pattern or "pt" in pattern for pattern in patterns[1])


def test_refusals_are_said_in_one_line(client):
    from huggingface_hub import errors

    for kind, words in [
        (errors.RepositoryNotFoundError, "no model of that name on the hub"),
        (errors.GatedRepoError, "terms must be accepted"),
        (errors.RevisionNotFoundError, "without that revision"),
    ]:
        client(refusal(kind))
        with pytest.raises(SourceError, match=words) as caught:
            hub_snapshot("org/model")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "smollm2"),
        ("smolm2", "smollm2, minilm"),
        ("sentence-transformers/all-MiniLM-L12-v2", "minilm"),
        ("zzz", "smollm2, minilm, mobilenet_v2"),
    ],
)
def test_hub_that_cannot_be_reached_offers_the_embedded(monkeypatch, tmp_path, name, near):
    """The real client, against a port where nobody listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match="no connection to the hub") as caught:
        hub_snapshot(name)
    assert str(caught.value).endswith(f"Embedded, without the hub: {near}.")


def test_name_that_cannot_be_one(client):
    with pytest.raises(SourceError, match="HFValidationError"):
        hub_snapshot("no spaces/allowed here")

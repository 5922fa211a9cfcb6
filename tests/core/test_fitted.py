import json

import pytest
import torch

import jackfield.core.fitted as room
from jackfield.core.artifacts import save_artifact
from jackfield.core.errors import ArtifactError
from jackfield.core.fitted import Fitted


class Direction(Fitted):
    """A fitted object of one vector."""

    def __init__(self, vector, scale, words):
        self.vector, self.scale, self.words = vector, scale, words

    def edits(self):
        return []

    def report(self):
        return None

    def state(self):
        return {"scale": self.scale}, {"vector": self.vector}, {"words": self.words}

    @classmethod
    def from_state(cls, config, tensors, extra):
        return cls(tensors["vector"], config["scale"], extra["words"])


class Other(Direction):
    """Another kind, which happens to keep the same things."""


@pytest.fixture(autouse=True)
def _ours(monkeypatch):
    """The two live where Jackfield looks for fitted classes: in its own package."""
    for kind in (Direction, Other):
        monkeypatch.setattr(kind, "__module__", room.__name__)
        monkeypatch.setattr(room, kind.__name__, kind, raising=False)


@pytest.fixture
def saved(tmp_path):
    return Direction(torch.arange(3.0), 0.5, ["a", "b"]).save(tmp_path / "x")


def rename(folder, kind):
    header = json.loads((folder / "jackfield.json").read_text())
    (folder / "jackfield.json").write_text(json.dumps({**header, "kind": kind}))


def test_load_gives_back_what_was_saved(saved):
    again = Direction.load(saved)
    assert type(again) is Direction
    assert torch.equal(again.vector, torch.arange(3.0))
    assert (again.scale, again.words) == (0.5, ["a", "b"])


def test_the_interface_loads_whatever_kind_it_is(saved):
    assert type(Fitted.load(saved)) is Direction


def test_another_kind_is_refused(saved):
    with pytest.raises(ArtifactError, match="a Other, got a Direction"):
        Other.load(saved)


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "collections:OrderedDict",
        "jackfield.core.errors:JackfieldError",
        "jackfield.core.errors:explain",
        "jackfield.gone:Lost",
        "jackfield.core.fitted:Lost",
        "jackfieldevil:Direction",
        "",
    ],
)
def test_only_our_own_fitted_classes_are_looked_up(saved, kind):
    rename(saved, kind)
    with pytest.raises(ArtifactError, match="a fitted object of Jackfield"):
        Fitted.load(saved)


def test_saved_edits_are_not_a_fitted_object(tmp_path):
    path = save_artifact(tmp_path / "edits", kind="edits", config={"edits": []}, tensors={})
    with pytest.raises(ArtifactError, match="a fitted object of Jackfield, got edits"):
        Direction.load(path)

import dataclasses
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.config import config, from_json, replace, setting, to_json
from jackfield.core.errors import ConfigError


@config
class Example:
    """A config with each kind of setting."""

    k: int = setting(default=32, ge=1)
    rate: float = setting(default=1e-3, gt=0, lt=1)
    mode: str = setting(default="relu", choices=("relu", "topk"))
    kind: Literal["a", "b"] = "a"
    layers: tuple[int, ...] = (1, 2)
    label: str | None = None
    fast: bool = False


@pytest.mark.parametrize(
    ("setting_", "value"),
    [
        ("k", "a"),
        ("k", 0),
        ("k", True),
        ("k", 2.0),
        ("rate", 0.0),
        ("rate", 1),
        ("rate", True),
        ("rate", float("nan")),
        ("mode", "gelu"),
        ("kind", "c"),
        ("layers", [1, 2]),
        ("layers", (1, "2")),
        ("label", 3),
        ("fast", 1),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(setting_, value):
    with pytest.raises(ConfigError, match=f"Example: expected '{setting_}' to be .*, got"):
        Example(**{setting_: value})


def test_the_message_has_the_bounds_and_the_value():
    with pytest.raises(ConfigError) as caught:
        Example(k=0)
    assert str(caught.value) == "Example: expected 'k' to be int >= 1, got 0."
    with pytest.raises(ConfigError) as caught:
        Example(mode="gelu")
    assert str(caught.value) == "Example: expected 'mode' to be one of 'relu', 'topk', got 'gelu'."


def test_an_unknown_setting_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"has no setting 'laers'\. Did you mean layers"):
        Example(laers=(1,))
    with pytest.raises(ConfigError, match=r"has no setting 'zzz'\. It has: k, rate, mode"):
        Example(zzz=1)


def test_a_config_is_frozen_and_named_in_its_repr():
    made = Example(k=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.k = 4
    assert "k=3" in repr(made)
    assert made == Example(k=3) != Example(k=4)


def test_settings_are_given_by_name_only():
    with pytest.raises(TypeError):
        Example(3)


def test_replace_checks_and_leaves_the_first_alone():
    made = Example()
    assert replace(made, k=5) == Example(k=5)
    assert made.k == 32
    with pytest.raises(ConfigError, match="'k'"):
        replace(made, k=-1)


@given(
    k=st.integers(1, 10**9),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    layers=st.lists(st.integers()).map(tuple),
    label=st.none() | st.text(),
)
def test_json_round_trip(k, rate, layers, label):
    made = Example(k=k, rate=rate, layers=layers, label=label)
    assert from_json(Example, json.loads(json.dumps(to_json(made)))) == made


def test_json_of_an_unknown_or_wrong_setting_is_refused():
    with pytest.raises(ConfigError, match=r"has no setting 'seed'"):
        from_json(Example, {"seed": 1})
    with pytest.raises(ConfigError, match="'layers'"):
        from_json(Example, {"layers": ["a"]})

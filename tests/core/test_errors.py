import warnings

import pytest

from jackfield.core import errors
from jackfield.core.errors import did_you_mean, explain, nearest, warn

PUBLIC = [
    (errors.ConfigError, ValueError),
    (errors.SiteError, ValueError),
    (errors.EditError, ValueError),
    (errors.InputError, ValueError),
    (errors.ModelError, ValueError),
    (errors.SourceError, ValueError),
    (errors.ArtifactError, ValueError),
    (errors.BusyError, RuntimeError),
    (errors.MissingExtraError, ImportError),
]


@pytest.mark.parametrize(("kind", "builtin"), PUBLIC, ids=lambda kind: kind.__name__)
def test_an_error_is_ours_and_the_builtin_that_a_caller_would_catch(kind, builtin):
    assert issubclass(kind, errors.JackfieldError)
    assert issubclass(kind, builtin)


def test_a_message_is_one_line_with_place_expectation_and_value():
    line = explain(where="tiny", expected="an int", got="'a'")
    assert line == "tiny: expected an int, got 'a'."
    assert explain(where="tiny", expected="x", got="y", hint="Do z.") == (
        "tiny: expected x, got y. Do z."
    )


def test_nearest_is_best_first_and_at_most_n():
    names = [f"layers.{layer}.resid_post" for layer in range(12)] + ["logits"]
    near = nearest("layers.5.resid_pots", names)
    assert near[0] == "layers.5.resid_post"
    assert len(near) == 3


def test_nothing_near_gives_no_hint():
    assert did_you_mean("qqqq", ["layers.0.z", "logits"]) is None
    assert did_you_mean("logit", ["layers.0.z", "logits"]) == "Did you mean logits?"


def test_warn_points_at_the_caller_of_the_function_that_warns():
    def a_setting_without_effect():
        warn("k has no effect")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        a_setting_without_effect()
    assert [str(each.message) for each in caught] == ["k has no effect"]
    assert caught[0].category is errors.JackfieldWarning
    assert caught[0].filename == __file__

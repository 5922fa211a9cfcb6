"""Studies and their results are interfaces: a leaf must say what it measures and shows."""

import pytest

from jackfield.core.study import Result, Study


def test_a_study_that_does_not_run_cannot_be_made():
    class Silent(Study):
        pass

    with pytest.raises(TypeError, match="run"):
        Silent()


def test_a_result_that_does_not_report_cannot_be_made():
    class Mute(Result):
        pass

    with pytest.raises(TypeError, match="report"):
        Mute()

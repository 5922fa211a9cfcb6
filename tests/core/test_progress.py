import itertools
import sys

import pytest

from jackfield.core import progress
from jackfield.core.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says; stderr is no terminal."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_in_a_file_a_line_appears_now_and_then_and_at_the_end(clock, capsys):
    with Progress("fit", total=400, unit="rows") as p:
        for _ in range(4):
            clock[0] += 6
            p.update(100, FVU=0.25, dead=3)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fit: 200/400 rows  17 rows/s  12 s left  FVU 0.25  dead 3",
        "fit: 400/400 rows  17 rows/s  FVU 0.25  dead 3",
    ]


def test_without_a_total_there_is_no_estimate(clock, capsys):
    with Progress("read", total=None, unit="tokens") as p:
        clock[0] += 2
        p.update(1000)
    assert capsys.readouterr().err == "read: 1,000 tokens  500 tokens/s  \n"


def test_disabled_or_idle_says_nothing(clock, capsys):
    with Progress("fit", total=4, unit="rows", enabled=False) as p:
        clock[0] += 60
        p.update(4)
    with Progress("fit", total=4, unit="rows"):
        clock[0] += 60
    assert capsys.readouterr().err == ""


def test_no_time_at_all_is_no_division_by_zero(clock, capsys):
    with Progress("fit", total=4, unit="rows") as p:
        p.update(4)
    assert "4/4 rows" in capsys.readouterr().err


def test_an_exception_passes_and_what_was_done_is_said(clock, capsys):
    def stopped():
        with Progress("fit", total=4, unit="rows") as p:
            clock[0] += 1
            p.update(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().err.startswith("fit: 1/4 rows")


def test_on_a_terminal_one_live_line_has_the_figures(monkeypatch, capsys):
    ticks = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks) * 0.5)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("fit", total=10, unit="rows") as p:
        for _ in range(10):
            p.update(1, FVU=0.125)
    shown = capsys.readouterr().err
    assert "fit" in shown
    assert "100%" in shown
    assert "FVU 0.125" in shown

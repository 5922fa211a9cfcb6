import math
import re
from importlib.resources import files

import numpy as np
import pytest

from jackfield.reports.palette import (
    LEVELS,
    SERIES,
    Scale,
    color,
    colormap,
    contrast,
    ink,
    stylesheet,
)

THEMES = ("light", "dark")


def lightness(hex_color: str) -> float:
    """L* of CIELAB, which the palette does not compute."""
    rgb = np.array([int(hex_color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def steps(kind: str, theme: str) -> np.ndarray:
    return np.array([lightness(color(kind, i / 20, theme)) for i in range(21)])


@pytest.mark.parametrize("theme", THEMES)
def test_sequential_scale_is_even_in_lightness(theme):
    change = np.diff(steps("sequential", theme))
    assert (change < 0).all() if theme == "light" else (change > 0).all()
    assert np.abs(change).max() < 1.8 * np.abs(change).mean()


@pytest.mark.parametrize("theme", THEMES)
def test_diverging_scale_has_two_arms_of_equal_lightness(theme):
    light = steps("diverging", theme)
    arms = np.diff(light[10:]), np.diff(light[10::-1])
    for arm in arms:
        assert (np.sign(arm) == (-1 if theme == "light" else 1)).all()
    assert np.abs(light - light[::-1]).max() < 8


def test_arms_differ_for_who_sees_no_red_or_green():
    """Blue and copper differ in their blue channel, which the common deficiencies leave."""
    for theme in THEMES:
        low, high = color("diverging", 0.1, theme), color("diverging", 0.9, theme)
        assert abs(int(low[5:], 16) - int(high[5:], 16)) > 100


@pytest.mark.parametrize("theme", THEMES)
def test_ink_reads_on_every_level(theme):
    inks = {"black": "#000000", "white": "#ffffff"}
    for kind, top in LEVELS.items():
        for level in range(top + 1):
            paper = color(kind, level / top, theme)
            assert contrast(paper, inks[ink(paper)]) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("theme", "block"), [("light", 0), ("dark", 1)])
def test_letters_and_lines_read_on_their_ground(theme, block):
    css = files("jackfield.reports").joinpath("blocks.css").read_text(encoding="utf-8")
    named = re.findall(r"--(\w+): (#[0-9a-f]{6})", css)
    half = len(named) // 2
    colours = dict(named[block * half : (block + 1) * half])
    for letters in ("ink", "dim", "copper", "blue"):
        for ground in ("card", "paper", "soft"):
            assert contrast(colours[letters], colours[ground]) >= 4.5, (letters, ground)
    for line in SERIES[theme]:
        assert contrast(line, colours["card"]) >= 3


def test_levels_of_the_style_sheet_are_those_of_the_scale():
    css, scale = stylesheet(), Scale("diverging", -1, 1)
    light = css.split("@media")[0]
    for value in (-1, -0.5, 0, 0.25, 1):
        level = scale.css(value)
        assert f".{level}{{--c:{color('diverging', (value + 1) / 2)}" in light


def test_scale_over_values():
    assert Scale.over([1, -3, math.nan, math.inf], "diverging") == Scale("diverging", -3, 3)
    assert Scale.over([1, 5], "diverging", centre=4) == Scale("diverging", 1, 7)
    assert Scale.over([1, 5], "sequential") == Scale("sequential", 1, 5)
    assert Scale.over([2, 2], "sequential") == Scale("sequential", 2, 3)
    assert Scale.over([], "diverging") == Scale("diverging", -1, 1)
    assert Scale.over([9], "sequential", limits=(0, 1)).css(9) == "jq20"
    assert Scale.over([1], "diverging").css(-math.inf) == "jd0"


def test_matplotlib_has_the_same_colours():
    from matplotlib.colors import to_hex

    for kind in LEVELS:
        mapped = colormap(kind)
        assert [to_hex(mapped(i)) for i in (0, 255)] == [color(kind, 0), color(kind, 1)]

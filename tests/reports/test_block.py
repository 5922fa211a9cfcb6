"""What every block can do, whatever its kind."""

import io
import json
import math

import pytest
from rich.console import Console

from jackfield.core.errors import ArtifactError, InputError
from jackfield.reports import Block, Drawable, HeatMap
from jackfield.reports.block import as_rows, block_from_json, matrix, vector
from jackfield.reports.layout import walk


def test_json_round_trip(block):
    data = json.loads(json.dumps(block.to_json(), allow_nan=False))
    again = block_from_json(data)
    assert type(again) is type(block)
    assert again.to_json() == block.to_json()
    assert again.html(2) == block.html(2)


def test_html_is_well_formed(block, read):
    assert read(block.html(3)).elements


def test_html_keeps_markup_out(block, read):
    found = read(block.html(2))
    assert not found.all("script")
    for element in found.elements:
        assert not [name for name in element.attributes if name.startswith("on")]
        assert "style" not in element.attributes, "the policy forbids it"


def test_text_fits_and_says_something(block):
    assert block.text.strip()
    assert max(map(len, block.text.splitlines())) <= 100


def test_rich_prints_without_markup(block):
    console = Console(width=100, file=io.StringIO())
    console.print(block)
    assert console.file.getvalue().strip()


def test_rows_share_their_keys(block):
    assert len({tuple(row) for row in block.table}) <= 1


def test_repr_is_one_short_line(block):
    assert repr(block).startswith(f"<{type(block).__name__}")
    assert len(repr(block)) < 100
    assert "\n" not in repr(block)


def test_drawable_blocks_draw(block):
    if isinstance(block, Drawable):
        block.figure().canvas.draw()


def test_notebook_gets_style_and_no_script(block, read):
    found = read(block._repr_html_())
    assert len(found.all("style")) == 1
    assert not found.all("script")


def test_blocks_are_frozen(block):
    with pytest.raises(AttributeError):
        block.caption = "other"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "heatmap"}, "Did you mean heat map"),
        ({}, "a kind of block"),
        ({"kind": "figure", "plot": "os.system"}, "a kind of block"),
        ({"kind": "table", "columns": ["a"]}, "its fields"),
        ({"kind": "table", "columns": ["a"], "rows": [[1, 2]]}, "1 cells"),
        ({"kind": "heat map", "values": [["x"]]}, "numbers"),
        ({"kind": "text", "body": "x", "run": "y"}, "its fields"),
        ({"kind": "image", "data": '" onload="'}, "PNG"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_damaged_json_is_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        block_from_json(data)


def test_numbers_may_be_tensors_and_arrays():
    import numpy as np
    import torch

    half = torch.tensor([[0.5, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    assert matrix(half, where="x") == ((0.5, -1.0),)
    assert matrix(np.float32([[0.5], [2]]), where="x") == ((0.5,), (2.0,))
    assert HeatMap(half, x_labels=torch.arange(3, 5)).x_labels == ("3", "4")


@pytest.mark.parametrize("wrong", ["123", {"a": 1}, [[1, 2]], [None], 7])
def test_what_is_no_list_of_numbers_is_refused(wrong):
    with pytest.raises(InputError, match="here: expected a list of numbers"):
        vector(wrong, where="here")


def test_ragged_matrix_names_the_row():
    with pytest.raises(InputError, match="here, row 1: expected 2 values, got 1"):
        matrix([[1, 2], [3]], where="here")


def test_columns_of_the_same_name_are_kept():
    rows = as_rows(["a", "a", "a 2", "a"], [(1, 2, 3, 4)])
    assert list(rows[0].values()) == [1, 2, 3, 4]
    square = HeatMap([[1.0]], x_title="layer", y_title="layer", value_name="layer")
    assert len(square.table[0]) == 3


def test_infinities_survive_json():
    heat = HeatMap([[math.inf, -math.inf, math.nan]])
    again = block_from_json(json.loads(json.dumps(heat.to_json(), allow_nan=False)))
    assert again.values[0][:2] == (math.inf, -math.inf)
    assert math.isnan(again.values[0][2])


def test_every_kind_is_tried_here(everything):
    tried = {block.kind for block in walk([everything])}
    assert tried == set(Block.kinds), "add the new kind to one_of_each in conftest.py"

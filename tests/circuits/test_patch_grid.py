"""The result: its interval, its sentence, its report."""

import json

import pytest
import torch

from jackfield.circuits import PatchGrid
from jackfield.core.errors import InputError


def made(per_pair: torch.Tensor, *, by: str | None = "position", direction: str = "denoise"):
    pairs, sites, units = per_pair.shape
    return PatchGrid(
        per_pair=per_pair,
        sites=tuple(f"layers.{i}.resid_post" for i in range(sites)),
        labels=tuple(" to" for _ in range(units)),
        by=by,
        direction=direction,
        metric="logit difference",
        clean=torch.linspace(2, 3, pairs, dtype=torch.float64),
        corrupted=torch.zeros(pairs, dtype=torch.float64),
        model="m",
        seconds=1.0,
    )


def test_the_interval_covers_the_mean_and_narrows_with_pairs():
    spread = torch.randn(200, 1, 2, dtype=torch.float64) + 1
    few, many = made(spread[:20]), made(spread)
    for each in (few, many):
        low, high = each.interval()
        assert bool(((low < each.values) & (each.values < high)).all())
    widths = [float((high - low).mean()) for low, high in (few.interval(), many.interval())]
    assert widths[1] < widths[0] / 2


def test_the_interval_of_a_constant_share_of_each_pairs_own_gap_has_no_width():
    grid = made(torch.zeros(4, 1, 1, dtype=torch.float64))
    own = ((grid.clean - grid.corrupted) / (grid.clean - grid.corrupted).mean()) * 0.5
    low, high = made(own[:, None, None]).interval()
    torch.testing.assert_close(low, torch.full((1, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(high, low)


def test_one_pair_has_no_interval():
    with pytest.raises(InputError, match="several pairs, got one"):
        made(torch.zeros(1, 2, 2)).interval()


def test_the_sentence_says_when_nothing_carries():
    said = made(torch.full((1, 2, 3), 0.1)).sentence()
    assert said.startswith("No single position carries half")


def test_noise_reads_what_is_lost():
    values = torch.ones(1, 2, 3)
    values[0, 0, 1] = values[0, 1, 2] = 0.1
    grid = made(values, direction="noise")
    assert "What the answer needs sits at ' to' (position 1) in layers 0–0" in grid.sentence()
    assert "between layers 0 and 1" in grid.sentence()


@pytest.mark.parametrize("by", ["position", "head", None])
@pytest.mark.parametrize("pairs", [1, 3])
def test_the_report_survives_repeated_labels_and_is_saved(tmp_path, by, pairs):
    grid = made(torch.rand(pairs, 4, 1 if by is None else 5), by=by)
    report = grid.report()
    assert len(report.figure().axes) > 0
    for suffix in ("html", "png", "csv", "json"):
        assert report.save(tmp_path / f"grid.{suffix}").stat().st_size > 0
    assert "Activation patching" in json.loads((tmp_path / "grid.json").read_text())["title"]

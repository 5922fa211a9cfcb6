"""Ordinal axis: a planted order is found, an unordered cloud is not taken for one."""

import itertools

import pytest
import torch
from scipy.stats import spearmanr

from jackfield.core.errors import InputError, SiteError
from jackfield.steering.axes import GRANULARITY, LevelAxis, OrdinalAxis
from jackfield.steering.axes.ordinal_axis import (
    Cloud,
    at_least,
    dealt_out,
    geometry,
    orders,
    placed,
    spearman,
)
from jackfield.testing import World, tiny_world

AT = "layers.1.resid_post"
EACH = 12  # texts a level


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(means: torch.Tensor, noise: float = 0.5, seed: int = 0) -> Cloud:
    """Rows around a mean for each level, in a rotated space of 20 dimensions."""
    generator = draw(seed)
    level = torch.arange(len(means)).repeat_interleave(EACH)
    turned = torch.linalg.qr(torch.randn(20, 20, generator=generator).double()).Q
    rows = torch.zeros(len(level), 20, dtype=torch.float64)
    rows[:, : means.shape[1]] = means.double()[level]
    rows += noise * torch.randn(rows.shape, generator=generator).double()
    return Cloud(rows @ turned, level)


def ordered(levels: int = 5) -> Cloud:
    return cloud(torch.arange(levels)[:, None].float())


def unordered(seed: int) -> Cloud:
    """Five classes far apart in five directions of their own."""
    return cloud(3 * torch.eye(5), seed=seed)


def p_values(given: Cloud, seed: int = 0) -> tuple[float, float]:
    generator = draw(seed)
    rho = spearman(given.level, placed(given, given.level, 4, generator))
    others, complete = orders(5, 100, generator)
    assert complete
    ranked = [
        spearman(order[given.level], placed(given, order[given.level], 4, generator))
        for order in others
    ]
    dealt = []
    for _ in range(40):
        level = given.level[torch.randperm(len(given.level), generator=generator)]
        dealt.append(spearman(level, placed(given, level, 4, generator)))
    return at_least(rho, dealt), at_least(rho, ranked)


def test_a_rotated_ordered_cloud_is_found():
    given = ordered()
    places = placed(given, given.level, 4, draw())
    means = [float(places[given.level == i].mean()) for i in range(5)]
    assert means == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.12)
    p_texts, p_order = p_values(given)
    assert p_texts == pytest.approx(1 / 41)
    assert p_order == pytest.approx(1 / 60)
    cosine, share, first = geometry(given, draw())
    assert cosine > 0.9
    assert 0.2 < share <= first + 1e-9


def test_classes_without_an_order_differ_but_are_not_ordered():
    found = [p_values(unordered(seed)) for seed in range(4)]
    assert max(p_texts for p_texts, _ in found) < 0.05  # the ends do lie apart
    assert sorted(p_order for _, p_order in found)[2] > 0.1
    assert min(p_order for _, p_order in found) > 1 / 60


def test_texts_are_placed_by_an_axis_that_never_saw_them():
    """One text carried far away moves no place of its own fold but itself."""
    given = ordered(3)
    fold = dealt_out(given.level, 3, draw(5))
    plain = placed(given, given.level, 3, draw(5))
    moved = given.rows.clone()
    moved[0] += 100
    after = placed(Cloud(moved, given.level), given.level, 3, draw(5))
    same = fold == fold[0]
    same[0] = False
    assert torch.equal(plain[same], after[same])
    assert not torch.isclose(plain[~same][1:], after[~same][1:]).any()


def test_pure_noise_is_no_order():
    given = cloud(torch.zeros(4, 1))
    rho = spearman(given.level, placed(given, given.level, 4, draw()))
    assert abs(rho) < 0.35


def test_folds_hold_as_many_of_each_level():
    level = torch.tensor([0] * 7 + [1] * 10)
    fold = dealt_out(level, 3, draw())
    for each, size in ((0, 7), (1, 10)):
        counts = torch.bincount(fold[level == each], minlength=3)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


def test_orders_are_all_but_the_true_one_once():
    found, complete = orders(4, 100, draw())
    expected = {p for p in itertools.permutations(range(4)) if p[0] < p[-1]} - {(0, 1, 2, 3)}
    assert complete
    assert {tuple(each.tolist()) for each in found} == expected
    assert len(found) == 11
    drawn, complete = orders(7, 30, draw())
    assert (len(drawn), complete) == (30, False)


def test_spearman_is_that_of_scipy_and_quiet_on_equal_places():
    level, places = torch.arange(9), torch.randn(9).double()
    assert spearman(level, places) == pytest.approx(spearmanr(level, places).statistic)
    assert spearman(level, torch.ones(9).double()) == 0.0


@pytest.fixture
def world() -> World:
    return tiny_world()


def levels_of(world: World) -> dict[str, torch.Tensor]:
    mixed = torch.cat([world.tokens[:, :6], world.other[:, :6]], dim=1)
    return {"low": world.tokens[:12], "between": mixed[12:], "high": world.other[:12]}


def test_steering_moves_from_the_bottom_to_the_top(world):
    found = OrdinalAxis(folds=4, permutations=20).fit(world.model, levels=levels_of(world), at=AT)
    assert found.rising == 2
    assert found.orders == 3
    axis = found.direction.vector
    plain, moved = (
        world.model.run(world.tokens, sites=[AT], edits=edits)[AT][:, 1:].mean(dim=(0, 1))
        for edits in ((), found.edits(1.0))
    )
    torch.testing.assert_close(moved - plain, axis, atol=1e-4, rtol=1e-4)
    same = world.model.run(world.tokens, edits=found.edits(0.0)).logits
    assert torch.equal(same, world.model.run(world.tokens).logits)


def test_saved_and_loaded_it_says_the_same(world, tmp_path):
    found = OrdinalAxis(folds=3, permutations=5).fit(world.model, levels=levels_of(world), at=AT)
    again = LevelAxis.load(found.save(tmp_path / "axis"))
    assert again.report().text == found.report().text
    assert "3 levels, 36 texts" in found.report().summary


def test_what_it_cannot_order_is_refused(world):
    levels = levels_of(world)
    fit = OrdinalAxis(permutations=2).fit
    with pytest.raises(InputError, match="at least 3 levels, got 2"):
        fit(world.model, levels={"low": world.tokens, "high": world.other}, at=AT)
    with pytest.raises(InputError, match=r"between: expected 5 texts a level or more, got 2"):
        fit(world.model, levels={**levels, "between": levels["between"][:2]}, at=AT)
    with pytest.raises(InputError, match="ends that differ"):
        fit(world.model, levels={**levels, "high": levels["low"]}, at=AT)
    with pytest.raises(SiteError, match="one site"):
        fit(world.model, levels=levels, at="layers.*.resid_post")
    with pytest.raises(InputError, match="finite activations"):
        fit(world.poisoned().model, levels=levels, at=AT)


def test_texts_of_all_levels_share_their_subjects():
    assert {len(each) for each in GRANULARITY.values()} == {10}
    assert len({text for each in GRANULARITY.values() for text in each}) == 50


def test_smollm2_orders_person_to_world(smollm2):
    """ρ was 0.95 at layer 15 with 10 texts a level; words differ between levels, too."""
    texts = {name: each[:6] for name, each in GRANULARITY.items()}
    found = OrdinalAxis(folds=3, permutations=60).fit(
        smollm2, levels=texts, at="layers.15.resid_post"
    )
    assert found.rho > 0.8
    assert found.p_texts < 0.05
    assert found.p_order <= 3 / 60
    assert found.rising == 4

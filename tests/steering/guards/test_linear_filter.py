"""Linear filters: a planted direction, the promise of the threshold, and batches of one."""

import pytest
import torch

from jackfield.core.errors import InputError, ModelError, SiteError
from jackfield.steering.guards import Auroc, FittedFilter, LinearFilter
from jackfield.testing import tiny_llama, tiny_world

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def world():
    return tiny_world(texts=48)


def fitted(world, **settings) -> FittedFilter:
    return LinearFilter(**settings).fit(
        world.model, positive=world.tokens[:24], negative=world.other[:24], at=SITE
    )


@pytest.mark.parametrize("direction", ["logistic", "mean"])
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_no_calibration_text_is_flagged_and_new_harmful_ones_are(world, direction, tokens):
    found = fitted(world, direction=direction, tokens=tokens)
    assert not found.flagged(world.model, world.other[1:24:2]).any()
    assert found.threshold - found.benign.max() < 1e-3  # and no lower would do
    new = (found.scores(world.model, side[24:]) for side in (world.tokens, world.other))
    assert Auroc.of(*new).low > 0.5


def test_scores_are_shares_of_the_gap_along_the_mean_difference(world):
    """With the mean difference, the two means score ½ and −½ whatever the units are."""
    found = fitted(world, direction="mean")
    read = [
        world.model.run(x, sites=SITE)[SITE][:, -1].double()
        for x in (world.tokens[:24], world.other[:24:2])
    ]
    v = read[0].mean(dim=0) - read[1].mean(dim=0)
    torch.testing.assert_close(found.weight, (v / (v @ v)).float())
    middle = (read[0].mean(dim=0) + read[1].mean(dim=0)) / 2
    expected = (read[0] - middle) @ v / (v @ v)
    torch.testing.assert_close(found.harmful, expected.float())
    assert float(expected.mean()) == pytest.approx(0.5)


def test_nothing_is_found_where_there_is_nothing(world):
    """Both sides from one kind of text: new texts of the two are not told apart."""
    found = LinearFilter().fit(
        world.model, positive=world.other[:16], negative=world.other[16:32], at=SITE
    )
    draw = torch.Generator().manual_seed(9)
    new = torch.randint(51, 101, (60, 12), generator=draw)
    scores = found.scores(world.model, new)
    assert abs(scores[:30].mean() - scores[30:].mean()) < 0.3
    assert found.flagged(world.model, new).double().mean() < 0.4


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_a_score_is_the_same_alone_and_padded(world, tokens):
    found = fitted(world, tokens=tokens)
    rows = [world.tokens[0], world.other[0, :7], world.tokens[1, :5]]
    made = torch.zeros(2, 3, 12, dtype=torch.long)
    for index, row in enumerate(rows):
        made[0, index, -len(row) :], made[1, index, -len(row) :] = row, 1
    run = world.model.run({"input_ids": made[0], "attention_mask": made[1]}, sites=SITE)
    together = found.begin(3).update({SITE: run[SITE]}, made[1].bool())
    alone = torch.cat([found.scores(world.model, row[None]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_mean_is_that_of_all_tokens_but_sinks(world):
    found = fitted(world, tokens="all")
    x = world.model.run(world.tokens[:3], sites=SITE)[SITE]
    kept = [i for i in range(12) if i not in found.sinks]
    expected = x[:, kept].mean(dim=1) @ found.weight + found.bias
    torch.testing.assert_close(found.scores(world.model, world.tokens[:3]), expected)


def test_a_conformal_threshold_lets_some_through(world):
    strict, loose = fitted(world), fitted(world, alpha=0.25)
    assert loose.threshold < strict.threshold
    assert int((loose.benign > loose.threshold).sum()) == 2  # k = ⌈13 · 0.75⌉ = 10 of 12
    with pytest.raises(InputError, match=r"at least 19 benign scores for alpha=0\.05, got 12"):
        fitted(world, alpha=0.05)


def test_its_edits_bring_the_score_back_to_the_threshold(world):
    found = fitted(world, tokens="last")
    edits = found.edits(where="all")
    run = world.model.run(world.tokens[24:], sites=SITE, edits=edits)
    plain = world.model.run(world.tokens[24:], sites=SITE)[SITE] @ found.weight + found.bias
    score = run[SITE] @ found.weight + found.bias
    torch.testing.assert_close(score, plain.clamp(max=found.threshold), atol=1e-4, rtol=1e-4)
    assert (plain > found.threshold).any()


def test_bad_input(world):
    model, one = world.model, {"positive": world.tokens, "negative": world.other, "at": SITE}
    with pytest.raises(InputError, match="positive texts of LinearFilter: expected texts"):
        LinearFilter().fit(model, **{**one, "positive": []})
    with pytest.raises(InputError, match="calibration texts"):
        LinearFilter().fit(model, **{**one, "negative": world.other[:1]})
    with pytest.raises(InputError, match="two sides that differ"):
        LinearFilter().fit(
            model, positive=world.other, negative=world.other, calibration=world.other, at=SITE
        )
    with pytest.raises(SiteError, match=r"\[batch, position, d\]"):
        LinearFilter().fit(model, **{**one, "at": "layers.1.z"})
    with pytest.raises(ModelError, match="finite"):
        LinearFilter().fit(world.poisoned().model, **one)


def test_a_filter_of_another_model_is_refused(world):
    wide = tiny_llama(d_model=64)
    with pytest.raises(InputError, match="activations of width 32, as in the fit, got 64"):
        fitted(world).scores(wide, world.tokens[:2])

"""EigenTrack: planted low-rank drift is found, and nothing without it; streaming is batch."""

from statistics import fmean

import pytest
import torch

from jackfield.core.errors import ArtifactError, ConfigError, InputError, ModelError
from jackfield.steering import MeanDifference
from jackfield.steering.guards import EigenTrack, Guard, SpectralDetector
from jackfield.testing import tiny_world

WIDTH, LENGTH = 48, 30
STUDY = EigenTrack(window=10, steps=40, held_out=0.5)


def texts(count, drift, seed):
    """Noise; with `drift`, more and more of it along one direction, another one in each text."""
    draw = torch.Generator().manual_seed(5000 + seed)
    grown = drift * torch.linspace(0, 1, LENGTH)[:, None]
    made = []
    for _ in range(count):
        axis = torch.nn.functional.normalize(torch.randn(WIDTH, generator=draw), dim=0)
        along = torch.randn(LENGTH, 1, generator=draw) * grown * axis
        made.append((torch.randn(LENGTH, WIDTH, generator=draw) + along,))
    return made


@pytest.fixture(scope="module")
def found():
    return STUDY.learn(texts(24, 12.0, 0), texts(24, 0.0, 1), ("layers.0.resid_post",))


def test_it_finds_planted_drift_in_texts_it_has_not_seen(found):
    assert found.counts == (12, 12, 12, 12)
    assert found.auroc.value > 0.95
    early, late = (fmean(each[i] for each in found.positive) for i in (0, -1))
    assert late > early + 2  # it builds up as the drift does
    assert "AUROC" in found.report().summary


def test_it_finds_nothing_where_both_sides_are_alike():
    same = STUDY.learn(texts(24, 0.0, 2), texts(24, 0.0, 3), ("layers.0.resid_post",))
    assert same.auroc.low < 0.5 < same.auroc.high


def test_streaming_is_batch(found):
    detector = found.detector
    rows = [x for (x,) in (*texts(2, 12.0, 7), *texts(1, 0.0, 8))]
    watcher = detector.begin(3)
    told = []
    prompt = torch.stack([x[:14] for x in rows])
    pad = torch.zeros(3, 2, WIDTH)  # padding on the left must not count
    mask = torch.cat([torch.zeros(3, 2), torch.ones(3, 14)], dim=1).bool()
    told.append(watcher.update({"layers.0.resid_post": torch.cat([pad, prompt], dim=1)}, mask))
    for token in range(14, LENGTH):
        step = torch.stack([x[token] for x in rows])[:, None]
        told.append(
            watcher.update({"layers.0.resid_post": step}, torch.ones(3, 1, dtype=torch.bool))
        )
    streamed = torch.stack(told, dim=1)
    for row, x in enumerate(rows):
        torch.testing.assert_close(streamed[row], detector.scores((x,))[4:], atol=1e-4, rtol=1e-4)


def test_rows_of_unequal_length_keep_their_own_windows(found):
    detector = found.detector
    (x,), (y,) = texts(2, 12.0, 9)
    watcher = detector.begin(2)
    both = torch.zeros(2, 20, WIDTH)
    both[0, :], both[1, 8:] = x[:20], y[:12]
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :8] = False
    got = watcher.update({"layers.0.resid_post": both}, mask)
    expected = [detector.scores((x[:20],))[-1], detector.scores((y[:12],))[-1]]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_there_is_no_score_before_the_first_window(found):
    watcher = found.detector.begin(1)
    ones = torch.ones(1, 9, dtype=torch.bool)
    (x,) = texts(1, 0.0, 4)[0]
    assert watcher.update({"layers.0.resid_post": x[None, :9]}, ones).isnan().all()
    last = watcher.update({"layers.0.resid_post": x[None, 9:10]}, ones[:, :1])
    assert not last.isnan().any()


def test_it_is_saved_without_a_bit_lost(found, tmp_path):
    again = SpectralDetector.load(found.detector.save(tmp_path / "detector"))
    (text,) = texts(1, 12.0, 3)
    assert torch.equal(again.scores(text), found.detector.scores(text))
    assert again.features == found.detector.features
    world = tiny_world()
    other = MeanDifference().fit(
        world.model, positive=world.tokens, negative=world.other, at=world.site
    )
    with pytest.raises(ArtifactError, match="a SpectralDetector"):
        SpectralDetector.load(other.save(tmp_path / "other"))


def test_in_a_model_a_guard_has_the_scores_of_the_whole_text():
    world = tiny_world()
    sites = ["layers.0.resid_post", "layers.1.resid_post"]
    tracked = EigenTrack(window=6, steps=5).run(
        world.model, positive=world.tokens, negative=world.other, at=sites
    )
    detector = tracked.detector
    assert len(detector.features) == 2 * len(detector.features[:10])
    made = Guard(detector, 1e9, "log").generate(world.model, world.tokens[:2], max_new_tokens=8)
    for row in range(2):
        text = torch.cat([world.tokens[row], made.tokens[row, :-1]])
        run = world.model.run(text[None], sites=sites)
        kept = [i for i in range(len(text)) if i not in detector.sinks]
        whole = detector.scores([run[site][0, kept] for site in sites])
        torch.testing.assert_close(made.scores[row], whole[-8:], atol=1e-3, rtol=1e-3)


def test_bad_input():
    world = tiny_world()
    with pytest.raises(InputError, match="of 24 tokens or more, got 24 texts, the shortest of 12"):
        EigenTrack().run(
            world.model, positive=world.tokens, negative=world.other, at="layers.1.resid_post"
        )
    with pytest.raises(InputError, match="two negative texts"):
        STUDY.learn(texts(4, 1.0, 0), [], ("layers.0.resid_post",))
    with pytest.raises(ModelError, match="finite"):
        EigenTrack(window=6).run(
            world.poisoned().model, positive=world.tokens, negative=world.other,
            at="layers.1.resid_post",
        )  # fmt: skip


def test_more_leading_eigenvalues_than_a_window_has_are_refused():
    with pytest.raises(ConfigError, match="leading <= window − 2 = 2, got 3"):
        EigenTrack(window=4)

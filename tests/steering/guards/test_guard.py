"""The guard: it stops, steers and logs, row by row, and leaves alone what does not fire."""

import math

import pytest
import torch

from jackfield import edits as E
from jackfield.core.errors import InputError, ModelError
from jackfield.steering.guards import Guard, GuardTrial, Projection
from jackfield.testing import tiny_llama, tiny_world

SITE = "layers.1.resid_post"
COUNT = 8


@pytest.fixture(scope="module")
def world():
    return tiny_world(torch.float64)


@pytest.fixture(scope="module")
def prompts(world):
    return world.tokens[:4]


@pytest.fixture(scope="module")
def scorer():
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    return Projection(vector / vector.norm(), SITE)


@pytest.fixture(scope="module")
def free(world, prompts, scorer):
    """A guard that never fires, and all scores."""
    return Guard(scorer, math.inf).generate(world.model, prompts, max_new_tokens=COUNT)


@pytest.fixture(scope="module")
def bound(free):
    """Some rows pass it, at different steps; some do not."""
    return float(free.highest.sort().values[1:3].mean())


def expected_firing(free, bound):
    return [next((i for i, x in enumerate(row) if x > bound), None) for row in free.scores]


def test_one_that_does_not_fire_changes_no_bit(world, prompts, free):
    plain = world.model.generate(prompts, max_new_tokens=COUNT)
    assert torch.equal(free.tokens, plain.tokens)
    assert free.texts == tuple(plain.texts)
    assert free.prompts == tuple(plain.prompts)
    assert free.fired_at == (None,) * 4


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_scores_are_those_of_one_run_over_the_whole_text(world, prompts, scorer, cache):
    guard = Guard(scorer, math.inf)
    made = guard.generate(world.model, prompts, max_new_tokens=COUNT, cache=cache)
    text = torch.cat([prompts, made.tokens[:, :-1]], dim=1)
    x = world.model.run(text, sites=SITE)[SITE].float()
    torch.testing.assert_close(made.scores, (x @ scorer.weight)[:, 11:], atol=1e-4, rtol=1e-4)


def test_stop_ends_the_row_before_the_token_that_was_chosen(world, prompts, scorer, free, bound):
    made = Guard(scorer, bound).generate(world.model, prompts, max_new_tokens=COUNT)
    at = expected_firing(free, bound)
    assert None in at
    assert len({each for each in at if each is not None}) >= 1
    assert list(made.fired_at) == at
    for row, step in enumerate(at):
        said = free.texts[row].split()
        assert made.texts[row].split() == (said if step is None else said[:step])
        if step is not None:
            assert made.scores[row, step + 1 :].isnan().all()
            assert (made.tokens[row, step:] == 0).all()


def test_a_row_that_fires_on_its_prompt_says_nothing(world, prompts, scorer):
    made = Guard(scorer, -math.inf).generate(world.model, prompts, max_new_tokens=COUNT)
    assert made.texts == ("",) * 4
    assert made.fired_at == (0,) * 4


def test_log_only_notes(world, prompts, scorer, free, bound):
    made = Guard(scorer, bound, "log").generate(world.model, prompts, max_new_tokens=COUNT)
    assert torch.equal(made.tokens, free.tokens)
    assert torch.equal(made.scores, free.scores)
    assert list(made.fired_at) == expected_firing(free, bound)


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_steer_switches_on_in_that_row_from_then_on(world, prompts, scorer, free, bound, cache):
    edit = E.Add(6 * torch.randn(32, generator=torch.Generator().manual_seed(4)), at=SITE)
    guard = Guard(scorer, bound, "steer", [edit])
    made = guard.generate(world.model, prompts, max_new_tokens=COUNT, cache=cache)
    at = expected_firing(free, bound)
    assert list(made.fired_at) == at
    for row, step in enumerate(at):
        if step is None:
            assert torch.equal(made.tokens[row], free.tokens[row])
            assert torch.equal(made.scores[row], free.scores[row]) or cache != "dynamic"
            continue
        assert torch.equal(made.tokens[row, : step + 1], free.tokens[row, : step + 1])
        begun = torch.cat([prompts[row], free.tokens[row, : step + 1]])
        late = E.Add(edit.vector, at=SITE, where=slice(12 + step, None))
        rest = world.model.generate(begun[None], edits=[late], max_new_tokens=COUNT).tokens[
            0, : COUNT - step - 1
        ]
        assert torch.equal(made.tokens[row, step + 1 :], rest)
    assert not torch.equal(made.tokens, free.tokens)


def test_a_row_does_not_know_of_the_others(world, prompts, scorer, bound):
    edit = E.Scale(3.0, at=SITE)
    guard = Guard(scorer, bound, "steer", [edit])
    together = guard.generate(world.model, prompts, max_new_tokens=COUNT)
    for row in range(4):
        alone = guard.generate(world.model, prompts[row : row + 1], max_new_tokens=COUNT)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.fired_at[0] == together.fired_at[row]


def test_two_models_watched_at_once_do_not_disturb_each_other(prompts, scorer, bound):
    models = [tiny_llama(torch.float64, seed=seed) for seed in (0, 1)]
    guard = Guard(scorer, bound, "steer", [E.Scale(3.0, at=SITE)])
    alone = [guard.generate(model, prompts, max_new_tokens=COUNT) for model in models]
    runs = [guard.watch(model, prompts, max_new_tokens=COUNT) for model in models]
    turns = list(zip(*runs, strict=True))
    for index, expected in enumerate(alone):
        tokens = torch.stack([pair[index].step.tokens for pair in turns], dim=1)
        scores = torch.stack([pair[index].scores for pair in turns], dim=1)
        assert torch.equal(tokens, expected.tokens)
        assert torch.equal(scores, expected.scores)
    assert not torch.equal(alone[0].scores, alone[1].scores)


def test_watching_says_who_fires_when(world, prompts, scorer, free, bound):
    seen = [each.fired for each in Guard(scorer, bound).watch(
        world.model, prompts, max_new_tokens=COUNT
    )]  # fmt: skip
    fired = torch.stack(seen, dim=1)
    at = expected_firing(free, bound)
    for row, step in enumerate(at):
        assert fired[row].nonzero().flatten().tolist() == ([] if step is None else [step])


def test_edits_and_sampling_are_handed_on(world, prompts, scorer):
    options = {"max_new_tokens": COUNT, "temperature": 1.0, "seed": 5,
               "edits": [E.Scale(2.0, at=SITE)]}  # fmt: skip
    made = Guard(scorer, math.inf).generate(world.model, prompts, **options)
    assert torch.equal(made.tokens, world.model.generate(prompts, **options).tokens)


def test_the_report_has_a_picture_with_the_threshold(world, prompts, scorer, bound):
    made = Guard(scorer, bound).generate(world.model, prompts, max_new_tokens=COUNT)
    report = made.report()
    assert "of 4 rows passed" in report.summary
    assert "were stopped" in report.summary
    lines = report.blocks[0]
    assert set(lines.series) == {"row 0", "row 1", "row 2", "row 3", "threshold"}
    assert lines.series["threshold"][0] == pytest.approx(bound)
    assert "fired at" in repr(made)


def test_what_is_not_finite_is_not_passed_over(world, prompts, scorer):
    with pytest.raises(ModelError, match="finite"):
        Guard(scorer, 0.0).generate(world.poisoned().model, prompts, max_new_tokens=2)


def test_bad_input(world, prompts, scorer):
    with pytest.raises(InputError, match="width 32, as in the fit, got 64"):
        Guard(scorer, 0.0).generate(tiny_llama(d_model=64), prompts, max_new_tokens=2)
    with pytest.raises(InputError, match="threshold: expected a number, got NaN"):
        Guard(scorer, math.nan)
    with pytest.raises(InputError, match="'stop', 'steer' or 'log'"):
        Guard(scorer, 0.0, "halt")
    with pytest.raises(InputError, match="edits with action='steer', and only with it"):
        Guard(scorer, 0.0, "steer")
    with pytest.raises(InputError, match="edits with action='steer', and only with it"):
        Guard(scorer, 0.0, "stop", [E.Scale(2.0, at=SITE)])


class TestTrial:
    def test_it_counts_what_the_guard_does(self, world, scorer, prompts, free, bound):
        found = GuardTrial(new_tokens=COUNT).run(
            world.model, Guard(scorer, bound), positive=prompts, negative=world.other[:20]
        )
        at = expected_firing(free, bound)
        assert found.positive.fired_at == tuple(at)
        assert found.detection.count == sum(each is not None for each in at)
        assert found.false_alarms.of == 20
        torch.testing.assert_close(torch.tensor(found.positive.highest), free.highest)
        assert "false alarms" in found.report().summary

    def test_a_threshold_from_whole_generations_keeps_its_promise_on_them(self, world, scorer):
        free = Guard(scorer, math.inf)
        benign = free.generate(world.model, world.other[:12], max_new_tokens=COUNT)
        guard = Guard(scorer, float(benign.highest.max()))
        found = GuardTrial(new_tokens=COUNT).run(
            world.model, guard, positive=world.tokens[:4], negative=world.other[:12]
        )
        assert found.false_alarms.count == 0

    def test_no_prompts_are_refused(self, world, scorer):
        with pytest.raises(InputError, match="negative prompts: expected texts"):
            GuardTrial().run(world.model, Guard(scorer, 0.0), positive=world.tokens, negative=[])

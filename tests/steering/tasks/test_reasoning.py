"""Reasoning vectors and sweeps against hooks by hand, a planted direction, and bad input."""

import math

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering import MeanDifference, PairedPCA
from jackfield.steering.tasks.reasoning_items import (
    ReasoningItem,
    reasoning_items,
    sorted_by_solving,
)
from jackfield.steering.tasks.reasoning_result import ReasoningCurves
from jackfield.steering.tasks.reasoning_sweep import ReasoningSweep
from jackfield.steering.tasks.reasoning_vector import ReasoningVector

AT = "layers.1.resid_post"


def prompts(seed: int, rows: int = 12) -> torch.Tensor:
    return torch.randint(1, 100, (rows, 8), generator=torch.Generator().manual_seed(seed))


def items(seed: int, answer: int = 7, rows: int = 12) -> list[ReasoningItem]:
    return [ReasoningItem(tuple(row.tolist()), answer) for row in prompts(seed, rows)]


def fitted(model, axis: str = "mean"):
    sides = {"positive": prompts(1), "negative": prompts(2)}
    return ReasoningVector(axis=axis).fit(model, **sides, at=AT)


def test_the_vector_is_that_of_the_last_tokens(tiny64):
    plus, minus = (tiny64.run(prompts(seed), sites=[AT])[AT][:, -1] for seed in (1, 2))
    torch.testing.assert_close(fitted(tiny64).vector, (plus.mean(0) - minus.mean(0)).float())
    sides = {"positive": prompts(1), "negative": prompts(2), "at": AT}
    axis = PairedPCA(tokens="last").fit(tiny64, **sides)
    assert torch.equal(fitted(tiny64, "pc1").vector, axis.vector)
    mean = MeanDifference(tokens="last").fit(tiny64, **sides)
    assert torch.equal(fitted(tiny64).vector, mean.vector)


def test_every_measure_is_that_of_a_plain_hook(tiny64, monkeypatch):
    monkeypatch.setattr(type(tiny64), "sinks", (0,))
    vector, asked = fitted(tiny64), items(3)
    curves = ReasoningSweep(coefficients=(-1.0, 2.0), randoms=1).run(tiny64, vector, asked)
    assert curves.coefficients == (-1.0, 0.0, 2.0)
    tokens = prompts(3)

    def p(c: float) -> torch.Tensor:
        def add(module, args, output):
            moved = output.clone()
            moved[:, 1:] += c * vector.vector.double()  # the sink is left alone
            return moved

        handle = tiny64.module.model.layers[1].register_forward_hook(add)
        with torch.no_grad():
            logits = tiny64.module(tokens).logits[:, -1]
        handle.remove()
        return logits.softmax(dim=-1)

    base, steered = p(0.0), p(2.0)
    kl = (steered * (steered / base).log()).sum(dim=-1)
    entropy = -(steered * steered.log()).sum(dim=-1)
    torch.testing.assert_close(curves.kl[0, 2].double(), kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(curves.entropy[0, 2].double(), entropy, atol=1e-4, rtol=1e-4)
    assert curves.right[0, 2].tolist() == (steered.argmax(dim=-1) == 7).tolist()
    assert not curves.kl[:, 1].any()


def test_a_planted_direction_solves_more_and_random_ones_do_not(tiny64):
    """The positive side ends in tokens that carry the answer's direction; blocks are silent."""
    answer = 7
    with torch.no_grad():
        for block in tiny64.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        head = tiny64.module.lm_head.weight
        tiny64.module.model.embed_tokens.weight[90:] += 2 * head[answer] / head[answer].norm()
    plus, minus = prompts(1) % 10 + 90, prompts(2) % 80 + 1
    vector = ReasoningVector().fit(tiny64, positive=plus, negative=minus, at=AT)
    asked = [ReasoningItem(tuple((row % 80 + 1).tolist()), answer) for row in prompts(5, 30)]
    curves = ReasoningSweep(coefficients=(-2.0, 2.0), randoms=3).run(tiny64, vector, asked)
    gain, (low, _) = curves.change(0, 2)
    assert gain > 0.3
    assert low > 0
    assert max(curves.change(v, 2)[0] for v in (1, 2, 3)) < gain / 2
    assert "solves more shown" in curves.report().summary


def test_solved_and_unsolved_are_found_by_asking(tiny64):
    tokens = prompts(3)
    said = tiny64.module(tokens).logits[:, -1].argmax(dim=-1)
    given = [
        ReasoningItem(tuple(row.tolist()), int(top) if i % 3 else int(top) - 1)
        for i, (row, top) in enumerate(zip(tokens, said, strict=True))
    ]
    solved, unsolved = sorted_by_solving(tiny64, given)
    assert len(unsolved) == 4
    assert set(solved) | set(unsolved) == set(given)


@pytest.mark.parametrize("kind", ["arithmetic", "induction", "deduction"])
def test_items_are_different_and_right(kind):
    made = reasoning_items(kind, 40, seed=2)
    assert len(set(made)) == 40
    assert reasoning_items(kind, 40, seed=2) == made
    for item in made:
        assert item.answer.startswith(" ")
        assert not item.prompt.endswith(" ")
    if kind == "arithmetic":
        numbers = {word: value for value, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve".split()
        )}  # fmt: skip
        for item in made:
            first, sign, second, _ = item.prompt.split("\n")[-1].split()
            other = numbers[second] if sign == "plus" else -numbers[second]
            assert numbers[item.answer.strip()] == numbers[first] + other


@pytest.mark.parametrize("seed", range(5))
def test_no_sum_is_solved_among_its_shots_and_none_is_asked_twice(seed):
    made = reasoning_items("arithmetic", 60, seed=seed)
    problems = [[line.split(" =")[0] for line in item.prompt.split("\n")] for item in made]
    for lines in problems:
        assert len({frozenset(line.split()) for line in lines}) == len(lines) == 5
    assert len({frozenset(lines[-1].split()) for lines in problems}) == 60


@pytest.mark.parametrize("kind", ["induction", "deduction"])
def test_a_split_of_the_others_shares_no_problem_either(kind):
    asked = [item.prompt.split("\n")[-1] for item in reasoning_items(kind, 100)]
    assert len(set(asked)) == 100


def by_chance(seed: int, c: int = 6, count: int = 60) -> ReasoningCurves:
    """A vector that does nothing but change one answer in five at random, at each of six c."""
    draw = torch.Generator().manual_seed(seed)
    base = torch.rand(count, generator=draw) < 0.5
    right = base.repeat(2, c + 1, 1)
    changed = torch.rand(2, c, count, generator=draw) < 0.2
    right[:, 1:] = torch.where(changed, torch.rand(2, c, count, generator=draw) < 0.5, base)
    zero = torch.zeros(right.shape)
    places = tuple(float(each) for each in range(c + 1))
    return ReasoningCurves("m", (AT,), ("vector", "random 0"), places, right, zero, zero, seed)


def test_the_best_of_several_coefficients_is_seldom_a_gain_by_chance():
    curves = [by_chance(seed) for seed in range(200)]
    plain = sum(each.change(0, each.best)[1][0] > 0 for each in curves)
    told = sum("solves more shown" in each._sentence() for each in curves)
    assert plain > 0.08 * len(curves)  # what one interval of 95 % at the best c would say
    assert told < 0.05 * len(curves)


def test_the_interval_of_the_best_widens_with_how_many_were_tried():
    """Eight items of twelve gained and none lost, by the formula of Agresti and Min."""
    right = torch.zeros(2, 7, 12, dtype=torch.bool)
    right[0, 3, :8] = True
    zero = torch.zeros(right.shape)
    for last, z in ((4, 2.3940), (7, 2.6383)):  # quantiles at 1 − 0.025 / 3, and / 6
        places = tuple(float(each) for each in range(last))
        kept = (each[:, :last] for each in (right, zero, zero))
        found = ReasoningCurves("m", (AT,), ("vector", "random 0"), places, *kept, 0)
        half = z * math.sqrt(9 - 64 / 14) / 14
        assert found.best_interval == pytest.approx((8 / 14 - half, 8 / 14 + half), abs=1e-4)


def test_bad_input_is_refused(tiny64):
    sweep = ReasoningSweep()
    with pytest.raises(InputError, match="at least one item"):
        sweep.run(tiny64, fitted(tiny64), [])
    with pytest.raises(InputError, match="a vector and a coefficient"):
        sweep.run(tiny64, [], items(3))
    with pytest.raises(InputError, match="one of arithmetic"):
        reasoning_items("magic", 3)
    with pytest.raises(InputError, match="at most 150 different problems of induction, got 900"):
        reasoning_items("induction", 900)
    with pytest.raises(InputError, match="at most 66 different problems of arithmetic, got 67"):
        reasoning_items("arithmetic", 67)
    with pytest.raises(InputError, match="pairs"):
        ReasoningVector(axis="pc1").fit(
            tiny64, positive=prompts(1), negative=prompts(2, 5), at=AT
        )  # fmt: skip


@pytest.mark.slow
def test_a_sweep_of_smollm2_moves_it_more_the_further_it_goes(smollm2):
    """Whether it solves more is measured (it does not), and not asked for."""
    made = reasoning_items("induction", 60)
    solved, unsolved = sorted_by_solving(smollm2, made[:40])
    assert min(len(solved), len(unsolved)) >= 4
    vector = ReasoningVector().fit(
        smollm2,
        positive=[item.prompt for item in solved],
        negative=[item.prompt for item in unsolved],
        at="layers.15.resid_post",
    )
    curves = ReasoningSweep(randoms=1).run(smollm2, vector, made[40:])
    kl = curves.kl.mean(dim=-1)[0].tolist()
    assert kl[3] == 0.0
    assert kl[0] > kl[1] > kl[2] > 0
    assert kl[6] > kl[5] > kl[4] > 0

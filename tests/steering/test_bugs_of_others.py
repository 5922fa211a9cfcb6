"""Bugs that steering libraries have had, and that ours must be shown not to have.

One test a bug, named after it, against plain PyTorch hooks or plain arithmetic on a tiny model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import torch
from torch import Tensor

import jackfield as jf
from jackfield.core.errors import JackfieldError
from jackfield.edits import Add, Project
from jackfield.steering import Conditional, ConditionalSteering, MeanDifference, PairedPCA
from jackfield.steering.steering_vector import WRITERS, SteeringVector

AT = "layers.1.resid_post"
D = 32


@pytest.fixture
def vector() -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def texts(seed: int, rows: int = 12) -> Tensor:
    return torch.randint(1, 100, (rows, 9), generator=torch.Generator().manual_seed(seed))


def fitted(model: jf.Model, method=None) -> SteeringVector:
    made = (method or MeanDifference()).fit(model, positive=texts(1), negative=texts(2), at=AT)
    assert isinstance(made, SteeringVector)
    return made


@contextmanager
def hooked(model: jf.Model, change: Callable[[Tensor], Tensor], layer: int = 1) -> Iterator[None]:
    """A plain hook on a block's output."""
    hook = model.module.model.layers[layer].register_forward_hook
    handle = hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def plain(model: jf.Model, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.module(tokens, use_cache=False).logits
    return logits


def hidden_states(model: jf.Model, tokens: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        states: tuple[Tensor, ...] = model.module(tokens, output_hidden_states=True).hidden_states
    return states


def test_last_prompt_token_missed(tiny64, tokens, vector):
    """The first new token is made at the last prompt position: steering must be there already."""
    with hooked(tiny64, lambda x: x + 5 * vector):
        expected = plain(tiny64, tokens)[:, -1].argmax(dim=-1)
    for where in ("generated", "last", "all"):
        edits = [Add(vector, at=AT, where=where, strength=5.0)]
        made = tiny64.generate(tokens, edits=edits, max_new_tokens=1)
        at_last = tiny64.run(tokens, sites=[AT], edits=edits)[AT][:, -1]
        moved = at_last - tiny64.run(tokens, sites=[AT])[AT][:, -1]
        torch.testing.assert_close(moved, 5 * vector.expand_as(moved))
        if where == "all":
            assert torch.equal(made.tokens[:, 0], expected)
    unsteered = plain(tiny64, tokens)[:, -1].argmax(dim=-1)
    assert not torch.equal(expected, unsteered)  # or the test would show nothing


def test_off_by_one_between_hidden_states_and_blocks(tiny64, tokens, vector):
    """hidden_states[0] is the embedding, so block ℓ's output is hidden_states[ℓ + 1]."""
    states = hidden_states(tiny64, tokens)
    run = tiny64.run(tokens, sites=["embed", "layers.0.resid_post", AT])
    for site, index in (("embed", 0), ("layers.0.resid_post", 1), (AT, 2)):
        assert torch.equal(run[site], states[index])
    read, written = (
        (states_of := hidden_states(tiny64, texts(1)))[2],
        hidden_states(tiny64, texts(2))[2],
    )
    assert len(states_of) == 4
    expected = (read.mean(dim=1).mean(dim=0) - written.mean(dim=1).mean(dim=0)).float()
    torch.testing.assert_close(fitted(tiny64).vector, expected)
    with hooked(tiny64, lambda x: x + vector):
        steered = plain(tiny64, tokens)
    torch.testing.assert_close(tiny64.run(tokens, edits=[Add(vector, at=AT)]).logits, steered)


def test_final_norm_read_as_a_layer(tiny64, tokens):
    """The last entry of hidden_states is normed; the last block's output is not that."""
    seen: list[Tensor] = []
    with hooked(tiny64, lambda x: seen.append(x) or x, layer=2):
        normed = hidden_states(tiny64, tokens)[-1]
    run = tiny64.run(tokens, sites=["layers.2.resid_post", "final_norm"])
    assert torch.equal(run["layers.2.resid_post"], seen[0])
    assert torch.equal(run["final_norm"], normed)
    assert not torch.allclose(run["layers.2.resid_post"], normed)
    assert len(tiny64.sites.select("layers.*.resid_post")) == 3  # blocks, and no norm among them


@pytest.mark.parametrize("where", ["all", "prompt", "generated", "last"])
def test_cache_on_and_off_differ(tiny64, tokens, vector, where):
    """Token by token with a cache, and all at once without, are the same steered model."""
    edits = [Add(vector, at=AT, where=where, strength=2.0)]
    made = tiny64.generate(tokens, edits=edits, max_new_tokens=5)
    whole = torch.cat([tokens, made.tokens], dim=1)
    lengths = [tokens.shape[1]] * len(tokens)
    logits = tiny64.run(whole, edits=edits, prompt_lengths=lengths).logits
    again = logits[:, tokens.shape[1] - 1 : -1].argmax(dim=-1)
    assert torch.equal(again, made.tokens)


def test_only_row_0_decides(tiny64):
    """A condition is met, or not, by each row of a batch for itself."""
    sides = {"positive": texts(1) % 40 + 2, "negative": texts(2) % 40 + 55}
    gate = ConditionalSteering().fit(
        tiny64,
        condition=MeanDifference().fit(tiny64, **sides, at="layers.0.resid_post"),
        behaviour=fitted(tiny64),
        **sides,
    )
    assert isinstance(gate, Conditional)
    edits = gate.edits(4.0)
    mixed = torch.cat([sides["negative"][:2], sides["positive"][:2]])
    together = tiny64.run(mixed, edits=edits).logits
    alone = torch.cat([tiny64.run(row[None], edits=edits).logits for row in mixed])
    torch.testing.assert_close(together, alone)
    changed = [
        not torch.allclose(x, y) for x, y in zip(together, plain(tiny64, mixed), strict=True)
    ]
    assert changed == [False, False, True, True]


def test_global_state_between_two_models(tiny64, tokens, vector):
    """An edit of one model is none of another's, even while both are being edited."""
    other = jf.wrap(type(tiny64.module)(tiny64.module.config).double().eval(), name="other")
    before = plain(other, tokens)
    with hooked(tiny64, lambda x: x + vector):
        expected = plain(tiny64, tokens)
    with tiny64.editing([Add(vector, at=AT)]):
        assert torch.equal(plain(other, tokens), before)
        with other.editing([Add(-vector, at=AT)]):
            torch.testing.assert_close(plain(tiny64, tokens), expected)
            assert not torch.allclose(plain(other, tokens), before)
    assert torch.equal(plain(other, tokens), before)


def test_normalize_is_ignored(tiny64):
    """A strength in "norm:" is a share of the activation's length, whatever the vector's is."""
    made, tokens = fitted(tiny64), torch.cat([texts(1), texts(2)])
    length = hidden_states(tiny64, tokens)[2].norm(dim=-1).mean()
    for scale in (1.0, 1000.0):
        longer = SteeringVector(**{**vars(made), "vector": scale * made.vector})
        (edit,) = longer.edits("norm:0.3")
        moved = float((edit.strength * edit.vector).norm())
        assert moved == pytest.approx(0.3 * float(length), rel=1e-5)
    with torch.no_grad():  # a stream that is twice as long is moved twice as far
        for name, weight in tiny64.module.named_parameters():
            if "embed" in name or "o_proj" in name or "down_proj" in name:
                weight.mul_(2)
    (edit,) = fitted(tiny64).edits("norm:0.3")
    assert float((edit.strength * edit.vector).norm()) == pytest.approx(
        0.6 * float(length), rel=1e-3
    )


def test_non_unit_vectors_in_projections(tiny64, tokens, vector):
    """x − r̂ r̂ᵀx, with r̂ made 1 long: what is left has nothing along the vector."""
    unit = vector / vector.norm()
    with hooked(tiny64, lambda x: x - (x @ unit)[..., None] * unit):
        expected = plain(tiny64, tokens)
    for scale in (1e-3, 1.0, 50.0):
        edits = [Project(scale * vector, at=AT)]
        torch.testing.assert_close(tiny64.run(tokens, edits=edits).logits, expected)
        left = tiny64.run(tokens, sites=[AT], edits=edits)[AT] @ unit
        assert float(left.abs().max()) < 1e-10
    long = SteeringVector(**{**vars(fitted(tiny64)), "vector": (30 * vector).float()})
    run = tiny64.run(tokens, sites=[AT], edits=long.ablate(at=[*WRITERS], where="all"))
    assert float((run[AT] @ unit).abs().max()) < 1e-5


def test_pca_is_centred_on_differences():
    """Pairs that all differ by about the same: the axis is that difference, not what is left."""
    draw = torch.Generator().manual_seed(4)
    signal = torch.zeros(D, dtype=torch.float64)
    signal[0] = 4.0
    minus = torch.randn(40, D, generator=draw, dtype=torch.float64)
    noise = torch.randn(40, D, generator=draw, dtype=torch.float64)
    noise[:, 1] *= 3
    found = PairedPCA().direction(minus + signal + noise, minus)
    cosine = torch.cosine_similarity(found, signal, dim=0)
    centred = (signal + noise) - (signal + noise).mean(dim=0)
    wrong = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    assert float(cosine) > 0.9
    assert abs(float(torch.cosine_similarity(wrong, signal, dim=0))) < 0.4  # the bug


def test_vector_added_twice_in_the_prompt_and_again(tiny64, tokens, vector):
    """While generating, each position is steered once: the cache keeps what was steered."""
    edits = [Add(vector, at=AT, where="all")]
    made = tiny64.generate(tokens, edits=edits, max_new_tokens=4)
    whole = tokens
    for step in range(4):
        with hooked(tiny64, lambda x: x + vector):
            new = plain(tiny64, whole)[:, -1].argmax(dim=-1)
        assert torch.equal(made.tokens[:, step], new)
        whole = torch.cat([whole, new[:, None]], dim=1)


def test_vector_added_twice_by_a_block_that_is_left_and_entered_again(tiny64, tokens, vector):
    """Hooks do not pile up; edits that are nested on purpose add up, once each."""
    before = plain(tiny64, tokens)
    edits = [Add(vector, at=AT)]
    outputs = []
    for _ in range(3):
        with tiny64.editing(edits):
            outputs.append(plain(tiny64, tokens))
    with hooked(tiny64, lambda x: x + vector):
        once = plain(tiny64, tokens)
    for each in outputs:
        torch.testing.assert_close(each, once)
    assert torch.equal(plain(tiny64, tokens), before)
    with hooked(tiny64, lambda x: x + 2 * vector):
        twice = plain(tiny64, tokens)
    torch.testing.assert_close(tiny64.run(tokens, edits=[*edits, *edits]).logits, twice)


def test_an_error_inside_leaves_no_vector_behind(tiny64, tokens, vector):
    """A vector that stays after an exception is one that will be added twice."""
    before = plain(tiny64, tokens)
    edits = [Add(vector, at=AT)]
    with suppress(ZeroDivisionError), tiny64.editing(edits):
        assert not torch.equal(plain(tiny64, tokens), before)
        _ = 1 / 0
    assert torch.equal(plain(tiny64, tokens), before)


def test_sink_in_the_pooling(tiny64, monkeypatch):
    """A position a hundred times as long as the rest is neither read nor steered."""
    monkeypatch.setattr(type(tiny64), "sinks", (0,))
    plus, minus = texts(1), texts(2)
    means = [hidden_states(tiny64, x)[2][:, 1:].mean(dim=1).mean(dim=0) for x in (plus, minus)]
    made = fitted(tiny64)
    torch.testing.assert_close(made.vector, (means[0] - means[1]).float())
    base = tiny64.run(plus, sites=[AT])[AT]
    moved = tiny64.run(plus, sites=[AT], edits=made.edits(3.0))[AT] - base
    assert not moved[:, 0].any()
    assert bool(moved[:, 1:].any(dim=-1).all())


def test_padding_in_the_pooling(tiny64):
    """Padding is no token: a text is read alike alone and beside a longer one."""
    short, long = texts(1, 1)[:, :4], texts(2, 1)
    ids = torch.zeros(2, 9, dtype=torch.long)
    ids[0, :4], ids[1] = short[0], long[0]
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 4:] = 0
    run = tiny64.run({"input_ids": ids, "attention_mask": mask}, sites=[AT])
    assert run.mask is not None
    alone = tiny64.run(short, sites=[AT])[AT][0]
    torch.testing.assert_close(run[AT][0][run.mask[0]], alone)


def test_a_vector_of_another_model_is_added_without_a_word(tiny64):
    """A width that does not fit is refused by name."""
    wide = Add(torch.ones(2 * D), at=AT)
    with pytest.raises(JackfieldError, match=r"layers\.1\.resid_post.*\[32\], got \[64\]"):
        tiny64.run(texts(1), edits=[wide])

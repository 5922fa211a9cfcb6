"""Absorption: planted absorption is measured, a clean dictionary has none, splits are counted."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.dictionaries import Absorption, first_letters
from jackfield.dictionaries.judging.labelled import Labelled
from jackfield.testing import tiny_llama

LETTERS, EACH, D = 4, 80, 40


def letters(*, absorbed=0.0, split=False, constant=0.0, offset=0.0):
    """Words of 4 letters. In a share of those of letter 0 latent 4 ("short") fires alone, whose
    direction contains the letter's; with `split` letter 0 has a latent for each half of its words.
    """
    draw = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q.double()
    labels = torch.arange(LETTERS).repeat_interleave(EACH)
    latents = 12
    directions = axes[:latents].clone()
    directions[4] = (axes[0] + 0.5 * axes[20]) / 1.25**0.5
    directions[6] = (axes[0] + axes[21]) / 2**0.5
    codes = torch.zeros(len(labels), latents).double()
    codes[torch.arange(len(labels)), labels] = 2.0
    codes[:, 7:] = torch.rand(len(labels), 5, generator=draw)
    codes[:, 6] = constant  # always on
    order = torch.randperm(EACH, generator=draw)
    special = order[: round(absorbed * EACH)]
    codes[special, 0], codes[special, 4] = 0.0, 2.5
    if split:
        half = order[: EACH // 2]
        directions[5] = directions[0]
        codes[half, 0], codes[half, 5] = 0.0, 2.0
    x = codes @ directions + 0.05 * torch.randn(len(labels), D, generator=draw) + offset * axes[0]
    return Labelled(x, codes, labels, directions, "x", torch.arange(len(labels)))


def test_a_clean_dictionary_absorbs_nothing():
    result = Absorption().run(letters())
    assert result.classes == (0, 1, 2, 3)
    assert result.full.tolist() == [0] * 4
    assert result.fraction.max() < 0.02
    assert result.split.tolist() == [1] * 4


def test_planted_absorption_is_measured_and_only_there():
    result = Absorption(gain=0.5).run(letters(absorbed=0.25))
    assert float(result.full[0]) == pytest.approx(0.25, abs=0.12)
    assert float(result.fraction[0]) == pytest.approx(float(result.full[0]), abs=0.02)
    assert result.full[1:].tolist() == [0] * 3
    assert result.fraction[1:].max() < 0.02


def test_a_latent_that_is_found_as_a_main_one_absorbs_nothing():
    result = Absorption(gain=0.01).run(letters(absorbed=0.25))
    assert result.split[0] == 2
    assert result.full[0] == 0


def test_a_split_class_has_two_main_latents():
    assert Absorption().run(letters(split=True)).split.tolist() == [2, 1, 1, 1]


def test_neither_the_mean_activation_nor_a_latent_that_is_always_on_counts():
    plain = Absorption(gain=0.5).run(letters(absorbed=0.25))
    for changed in ({"constant": 3.0}, {"offset": 50.0}, {"offset": -50.0}):
        other = Absorption(gain=0.5).run(letters(absorbed=0.25, **changed))
        torch.testing.assert_close(other.full, plain.full)
        torch.testing.assert_close(other.fraction, plain.fraction, atol=1e-3, rtol=0)


def test_classes_that_the_activation_does_not_tell_are_refused():
    texts = letters()
    noise = texts.relabelled(texts.labels[torch.randperm(len(texts.labels))])
    with pytest.raises(InputError, match="a class that a linear probe can tell"):
        Absorption().run(noise)
    assert Absorption().run(texts).report().table[0]["class"] == "0"


def test_first_letters_are_those_of_single_tokens():
    words = " ".join(f"{a}{b}ord" for a in "pq" for b in "abcdefghij")
    model = tiny_llama(texts=[f"The first letter of the word {words} rare"])
    texts, labels = first_letters(model, each=9)
    assert sorted(set(labels)) == [15, 16], "p and q; too few words begin with r"
    assert len(texts) == 18
    for text, label in zip(texts, labels, strict=True):
        assert text.rpartition(" ")[2][0] == chr(ord("a") + label)
        assert model.run(text).tokens.shape == (1, 7)
    with pytest.raises(InputError, match="words of one token"):
        first_letters(tiny_llama())

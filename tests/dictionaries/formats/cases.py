"""The reference cases, and random dictionaries of ours of every kind that can be written."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from jackfield.dictionaries import SparseDictionary

DATA = Path(__file__).parent / "data"
CASES = sorted(path.parent for path in DATA.rglob("expected.safetensors"))
D, OUT, LATENTS, K = 10, 7, 24, 4
PAIR = ("layers.5.mlp_in", "layers.5.mlp_out")


def case_name(folder):
    return folder.relative_to(DATA).as_posix()


def site_for(folder):
    """The sites of a folder that does not tell them."""
    return PAIR if folder.name.endswith("mlp") else None


def expected(folder):
    return load_file(folder / "expected.safetensors")


def contributions(dictionary, x):
    """Codes times the lengths of the directions: what each latent adds."""
    return dictionary.encode(x) * dictionary.directions.norm(dim=1)


def random_dictionary(rule, *, out=D, skip=False, transcoder=False, same_centre=True):
    """One of ours: decoder rows of length 1; `rule` is "k", "zero", "one" or "each" threshold."""
    draw = torch.Generator().manual_seed(7)

    def random(*shape):
        return torch.randn(*shape, generator=draw)

    weights = {"encoder": random(LATENTS, D), "encoder_bias": random(LATENTS)}
    decoder = random(LATENTS, out)
    weights |= {"decoder": decoder / decoder.norm(dim=1, keepdim=True)}
    weights |= {"decoder_bias": random(out), "centre": random(D)}
    if same_centre and not transcoder:
        weights["centre"] = weights["decoder_bias"]
    weights["density"] = random(LATENTS).sigmoid()
    thresholds = {"zero": torch.zeros(LATENTS), "one": torch.full((LATENTS,), 1.5)}
    thresholds["each"] = random(LATENTS).abs()
    if rule != "k":
        weights["threshold"] = thresholds[rule]
    if skip:
        weights["skip"] = random(D, out)
    return SparseDictionary(
        "Any",
        {"k": K} if rule in ("k", "one") else {},
        weights,
        site="layers.5.mlp_out",
        sources=("layers.5.mlp_in",) if transcoder else (),
        k=K if rule == "k" else None,
        history=[],
    )


def writable():
    """(name, format, dictionary): all that the formats have a place for."""
    for rule in ("k", "zero", "one", "each"):
        for same_centre in (True, False):
            name = f"{rule}{'' if same_centre else '-centre'}"
            dictionary = random_dictionary(rule, same_centre=same_centre)
            yield f"sae_lens-{name}", "sae_lens", dictionary
            yield f"dictionary_learning-{name}", "dictionary_learning", dictionary
            if rule == "k":
                yield f"sparsify-{name}", "sparsify", dictionary
    for skip in (False, True):
        name = "transcoder-skip" if skip else "transcoder"
        square = random_dictionary("k", transcoder=True, skip=skip)
        yield f"sparsify-{name}", "sparsify", square
        for rule in ("zero", "each"):
            dictionary = random_dictionary(rule, out=OUT, transcoder=True, skip=skip)
            yield f"sae_lens-{rule}-{name}", "sae_lens", dictionary


def rows(n=16):
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(8))

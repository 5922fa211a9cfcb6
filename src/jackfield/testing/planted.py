"""Planted truths: tiny models and data whose answer is known, to see whether a method finds it.

model = tiny_llama()                    random weights, no download, milliseconds
data = planted_dictionary(seed=0)       rows that are sums of known directions
data = planted_difference(seed=0)       two groups that differ along one known direction
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from jackfield.model.model import Model

VOCABULARY = 101
_WORDS = (
    "When Then After Friends While The A I We She He They It and to at a the got went gave give "
    "were working decided found was is in on of that with not very quiet old new good bad first "
    "store garden school office drink ring book letter gift ball Mary John Anna Tom James Sarah "
    "David Emily happy sad calm angry feel peace furious boats wall wind night day sun rain one "
    "two red blue home work came saw said long"
).split()
_CONTEXT = 64


def tiny_llama(
    *,
    layers: int = 3,
    d_model: int = 32,
    tokenizer: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> "Model":
    """A Llama of 4 heads on 2 KV heads with random weights, large enough to matter.

    Args:
        layers: how many blocks.
        d_model: the width, a multiple of 8; the MLP is half as wide again.
        tokenizer: give it one, of about a hundred English words (others are unknown words).
        dtype: of the weights.
        seed: of the weights; the caller's random numbers are left alone.

    >>> model = tiny_llama(tokenizer=True)
    >>> model.run(["The boats came home."], sites=["layers.1.resid_post"]).logits.shape
    torch.Size([1, 5, 101])
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from jackfield.model.load import wrap

    settings = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=d_model,
        intermediate_size=d_model * 3 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=VOCABULARY - 1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = LlamaForCausalLM(settings).to(dtype).eval()
    return wrap(module, tiny_tokenizer() if tokenizer else None, name="tiny")


def tiny_tokenizer() -> Any:
    """A tokenizer of about a hundred words, each with the blank before it, and full stops."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<unk>",
        ".",
        ",",
        *(f" {w}" for w in _WORDS),
        "When",
        "The",
        "I",
        "She",
        "We",
    ]
    assert len(words) < VOCABULARY, len(words)
    ids = {word: i for i, word in enumerate(words)} | {"<end>": VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )


def tiny_texts(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 4 to 12 words that the tiny tokenizer knows; no sense is to be found in them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 13, (count,), generator=generator).tolist()
    picked = [torch.randint(len(_WORDS), (n,), generator=generator).tolist() for n in lengths]
    return ["We " + " ".join(_WORDS[i] for i in row) + "." for row in picked]


@dataclass(frozen=True)
class PlantedDictionary:
    """Rows that are sparse sums of known directions.

    Attributes:
        rows: [row, d].
        directions: [feature, d] of length 1.
        codes: [row, feature] not negative, `active` of them not zero in each row.
    """

    rows: Float[Tensor, "row d"]
    directions: Float[Tensor, "feature d"]
    codes: Float[Tensor, "row feature"]


def planted_dictionary(
    *,
    rows: int = 2048,
    d: int = 16,
    features: int = 24,
    active: int = 3,
    noise: float = 0.0,
    seed: int = 0,
) -> PlantedDictionary:
    """`rows = codes @ directions + noise`; codes between 1 and 2 where they are not zero.

    >>> data = planted_dictionary(rows=4, d=8, features=10)
    >>> data.rows.shape, (data.codes > 0).sum(dim=1).tolist()
    (torch.Size([4, 8]), [3, 3, 3, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features, d, generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    chosen = torch.rand(rows, features, generator=generator).argsort(dim=1)[:, :active]
    sizes = 1 + torch.rand(rows, active, generator=generator)
    codes = torch.zeros(rows, features).scatter(1, chosen, sizes)
    spread = noise * torch.randn(rows, d, generator=generator)
    return PlantedDictionary(codes @ directions + spread, directions, codes)


@dataclass(frozen=True)
class PlantedDifference:
    """Two groups of rows, Gaussian around means that differ along one direction.

    Attributes:
        positive, negative: [row, d].
        direction: [d] of length 1.
    """

    positive: Float[Tensor, "row d"]
    negative: Float[Tensor, "row d"]
    direction: Float[Tensor, " d"]


def planted_difference(
    *, rows: int = 256, d: int = 16, distance: float = 3.0, seed: int = 0
) -> PlantedDifference:
    """Means `± distance / 2` along the direction; 0 plants nothing, which is the control."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(d, generator=generator)
    direction = direction / direction.norm()
    groups = torch.randn(2, rows, d, generator=generator)
    shift = direction * distance / 2
    return PlantedDifference(groups[0] + shift, groups[1] - shift, direction)


def best_matches(
    found: Float[Tensor, "found d"], planted: Float[Tensor, "feature d"]
) -> Sequence[float]:
    """For each planted direction, the cosine of the found one that is nearest to it."""
    unit = found / found.norm(dim=1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    cosines: list[float] = (planted @ unit.T).amax(dim=1).tolist()
    return cosines
